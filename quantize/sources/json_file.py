"""A JSON file of a model folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qoq.quantize.errors import ModelSourceError


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; a missing or broken file is a ModelSourceError that names it."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelSourceError(f"{path.parent} has no {path.name}") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelSourceError(f"{path} is not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise ModelSourceError(f"{path} is not a JSON object")
    return value
