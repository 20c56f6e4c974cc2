"""Kernels on a GPU: checked against their definition first, then timed beside the libraries'."""
