"""Text, and what flows through a layer when the model reads it."""
