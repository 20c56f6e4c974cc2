"""Triton and Gluon kernels, and the functions that check their operands and launch them."""
