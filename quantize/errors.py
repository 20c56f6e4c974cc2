"""The one exception that a user of `qoq quantize` or of a model name has to know."""

from __future__ import annotations


class ModelSourceError(ValueError):
    """A model, a recipe or a calibration text cannot be used; the message says what to change."""
