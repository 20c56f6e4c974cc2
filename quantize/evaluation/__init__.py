"""What a quantized model loses, measured through the kernels that serve it."""
