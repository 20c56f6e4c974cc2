"""The one exception that a user of `qoq quantize` or of a model name has to know."""

from __future__ import annotations


class ModelSourceError(ValueError):
    """A model cannot be read or quantized. The message is one sentence that says what to change."""
