"""From logits to tokens: edits, the sampler, log-probabilities."""
