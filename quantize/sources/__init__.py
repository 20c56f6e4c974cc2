"""Where a model comes from: Hugging Face folders, GGUF files, other quantizers' checkpoints."""
