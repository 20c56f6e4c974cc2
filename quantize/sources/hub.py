"""Fetches a model from the Hugging Face hub into the hub's own cache."""

from __future__ import annotations

import re
from pathlib import Path

from qoq.quantize.errors import ModelSourceError

FILES = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "tokenizer.model")


def is_hub_id(model: str) -> bool:
    """Whether ``model`` reads as ``organisation/name``."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", model) is not None


def fetch_from_hub(model: str) -> Path:
    """The snapshot folder of the newest revision; the revision is the folder's name.

    Without network a snapshot that is already cached is used. Raises ModelSourceError otherwise.
    """
    import huggingface_hub  # a second to import, and needed for hub ids only

    try:
        folder = huggingface_hub.snapshot_download(
            model, allow_patterns=list(FILES), ignore_patterns=["consolidated*"]
        )
        return Path(folder)
    except Exception as error:  # network, HTTP and validation errors of several libraries
        reason = str(error).strip().splitlines()[0]
        raise ModelSourceError(
            f"{model!r} is no local path, and the Hugging Face hub did not give it ({reason}); "
            "check the name and the network, or give the path of a downloaded model"
        ) from error
