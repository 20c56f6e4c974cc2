"""Attention over the paged, quantized cache: decode, prefill, their plans and merges."""
