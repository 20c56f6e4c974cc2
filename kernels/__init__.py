"""Functions on tensors, each with its torch definition beside it. No model, no config object."""
