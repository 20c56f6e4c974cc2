"""Drives a server over HTTP and reports what a client saw. Knows nothing of the engine."""
