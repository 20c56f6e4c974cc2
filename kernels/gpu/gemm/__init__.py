"""Products: W4A8 in Triton and Gluon, W8A8, 16-bit; tiles, tables and packed weights."""
