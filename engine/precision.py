"""Precisions by name: what a linear layer multiplies and what the KV cache holds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Precision:
    """``weight_bits`` 4 or 8 with INT8 activations, or None: ``dtype`` throughout.

    ``kv_bits`` None keeps keys and values in ``dtype``.
    """

    name: str
    weight_bits: int | None
    kv_bits: int | None
    dtype: str = "float32"

    @property
    def is_quantized(self) -> bool:
        return self.weight_bits is not None


PRECISIONS: dict[str, Precision] = {
    precision.name: precision
    for precision in (
        Precision("w4a8kv4", 4, 4),
        Precision("w8a8kv8", 8, 8),
        Precision("fp32", None, None, "float32"),
        Precision("bf16", None, None, "bfloat16"),
        Precision("fp16", None, None, "float16"),
    )
}


def parse_precision(name: str) -> Precision:
    """Raises ValueError, naming the choices, for an unknown precision."""
    if name not in PRECISIONS:
        raise ValueError(f"precision {name!r} is not one of {', '.join(PRECISIONS)}")
    return PRECISIONS[name]
