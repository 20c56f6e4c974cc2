"""A step's logits to tokens: what requests ask for, kept where the kernels need it."""
