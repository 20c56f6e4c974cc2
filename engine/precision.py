"""Precisions by name: what a linear layer multiplies and what the KV cache holds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Precision:
    """``weight_bits`` 4 or 8, ``activation_bits`` 4 or 8, ``kv_bits`` 4 or 8: None is ``dtype``.

    Activations are quantized only where weights are.
    """

    name: str
    weight_bits: int | None
    activation_bits: int | None
    kv_bits: int | None
    dtype: str = "float32"

    @property
    def is_quantized(self) -> bool:
        """Whether the checkpoint has to hold codes of weights."""
        return self.weight_bits is not None


def _by_name(*precisions: Precision) -> dict[str, Precision]:
    return {precision.name: precision for precision in precisions}


# What a checkpoint is made for.
PRECISIONS: dict[str, Precision] = _by_name(
    Precision("w4a8kv4", 4, 8, 4),
    Precision("w8a8kv8", 8, 8, 8),
    Precision("fp32", None, None, None, "float32"),
    Precision("bf16", None, None, None, "bfloat16"),
    Precision("fp16", None, None, None, "float16"),
)

# Other ways to run a checkpoint, slower on purpose: they tell apart where a loss comes from.
COMPARISONS: dict[str, Precision] = _by_name(
    Precision("w4a16", 4, None, None),
    Precision("w4a4", 4, 4, 4),
    Precision("w16a16kv4", None, None, 4),
)


def parse_precision(name: str) -> Precision:
    """Raises ValueError, naming the choices, for an unknown precision."""
    known = PRECISIONS | COMPARISONS
    if name not in known:
        raise ValueError(f"precision {name!r} is not one of {', '.join(known)}")
    return known[name]


def stored_precision(name: str) -> str:
    """The precision of the checkpoint that ``name`` runs on: its own, but for a comparison."""
    if name not in COMPARISONS:
        return name
    bits = COMPARISONS[name].weight_bits
    return next(stored for stored, other in PRECISIONS.items() if other.weight_bits == bits)
