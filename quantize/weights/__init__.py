"""Stored forms of a weight matrix, and rounding to them."""
