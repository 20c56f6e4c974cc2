"""Output in a form that the client sets: JSON by a schema, a regex, a choice, a grammar."""
