"""Which numbers a checkpoint holds: the ``quantization_config`` of its ``config.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qoq.engine.precision import PRECISIONS
from qoq.quantize.errors import ModelSourceError

FORMAT_VERSION = 1
PER_CHANNEL = -1
GROUP_SIZES = (128, 64, 32)
DEFAULT_PRECISION = "w4a8kv4"


@dataclass(frozen=True, slots=True)
class QuantizationConfig:
    """A precision and, for 4-bit weights, the group size (-1: one scale a channel).

    ``int8_lm_head`` multiplies by an INT8 lm_head; otherwise it stays in 16 bits.
    """

    precision: str = DEFAULT_PRECISION
    group_size: int = 128
    int8_lm_head: bool = False

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ModelSourceError(
                f"precision {self.precision!r} is unknown; choose one of {', '.join(PRECISIONS)}"
            )
        if self.group_size not in (*GROUP_SIZES, PER_CHANNEL):
            raise ModelSourceError(
                f"group size {self.group_size} is not supported; choose 128, 64, 32, "
                "or -1 for one scale a channel"
            )
        if self.int8_lm_head and self.is_dense:
            raise ModelSourceError(f"an INT8 lm_head does not go with precision {self.precision}")

    @property
    def is_dense(self) -> bool:
        return not PRECISIONS[self.precision].is_quantized

    @property
    def dense_dtype(self) -> str:
        """``float32``, ``bfloat16`` or ``float16``; of a dense precision only."""
        return PRECISIONS[self.precision].dtype

    @property
    def has_groups(self) -> bool:
        return PRECISIONS[self.precision].weight_bits == 4 and self.group_size != PER_CHANNEL

    @property
    def label(self) -> str:
        """A short name for folders: ``w4a8kv4-g128``, ``w4a8kv4-channel-head8``, ``w8a8kv8``."""
        parts = [self.precision]
        if PRECISIONS[self.precision].weight_bits == 4:
            parts.append(f"g{self.group_size}" if self.has_groups else "channel")
        if self.int8_lm_head:
            parts.append("head8")
        return "-".join(parts)

    def to_json(self) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "quant_method": "qoq",
            "format_version": FORMAT_VERSION,
            "precision": self.precision,
        }
        if PRECISIONS[self.precision].weight_bits == 4:
            entry["group_size"] = self.group_size
        if self.int8_lm_head:
            entry["int8_lm_head"] = True
        return entry

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> QuantizationConfig:
        """The inverse of ``to_json``; refuses other methods and newer formats."""
        if entry.get("quant_method") != "qoq":
            raise ModelSourceError(
                f"the model is already quantized by {entry.get('quant_method')!r}; "
                "give the 16-bit model instead"
            )
        if entry.get("format_version") != FORMAT_VERSION:
            raise ModelSourceError(
                f"the checkpoint has format version {entry.get('format_version')}, this qoq reads "
                f"version {FORMAT_VERSION}; quantize the model again"
            )
        return cls(
            entry.get("precision", ""),
            entry.get("group_size", 128),
            entry.get("int8_lm_head", False),
        )
