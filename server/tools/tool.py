"""A tool as the server knows it: a name, and a schema of what it takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Tool:
    """``parameters`` is a JSON schema of an object. A strict tool's is followed in full."""

    name: str
    parameters: dict[str, Any] = field(default_factory=lambda: {"type": "object"})
    is_strict: bool = False

    @property
    def properties(self) -> dict[str, Any]:
        properties: dict[str, Any] = self.parameters.get("properties", {})
        return properties
