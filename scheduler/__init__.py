"""Which tokens run next, and where their KV lives. Pure Python, no torch."""
