"""Offline: a 16-bit model in, a QoQ checkpoint out."""
