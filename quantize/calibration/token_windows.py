"""What a model is calibrated on: windows of tokens, and a digest that tells them from others."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True, slots=True)
class TokenWindows:
    """``ids`` int64 [num_samples, length]; ``origin`` says where they come from."""

    ids: Tensor
    origin: str

    @property
    def sha256(self) -> str:
        """Of the ids as little-endian 64-bit integers, row after row."""
        return hashlib.sha256(self.ids.numpy().astype("<i8").tobytes()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        num_samples, length = self.ids.shape
        return {
            "origin": self.origin,
            "num_samples": num_samples,
            "length": length,
            "sha256": self.sha256,
        }
