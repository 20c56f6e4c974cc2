"""What a chat model says besides text: calls of tools, and its reasoning."""
