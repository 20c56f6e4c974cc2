"""Which group size each linear layer gets: the one asked for, or a smaller one that divides K."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from qoq.quantize.errors import ModelSourceError
from qoq.quantize.quantization_config import GROUP_SIZES

logger = logging.getLogger(__name__)


def fit_group_sizes(shapes: Mapping[str, tuple[int, ...]], asked: int) -> dict[str, int]:
    """Group size by tensor name, from shapes [N, K]; says once for each K where it falls back.

    Raises ModelSourceError, naming the tensor, where no supported size divides K.
    """
    fitted = {name: _fit(name, shape, asked) for name, shape in shapes.items()}
    for k, size in sorted({(shapes[name][1], size) for name, size in fitted.items()}):
        if size != asked:
            logger.warning("group size %d does not divide K = %d; using %d there", asked, k, size)
    return fitted


def _fit(name: str, shape: tuple[int, ...], asked: int) -> int:
    for size in GROUP_SIZES:
        if size <= asked and shape[1] % size == 0:
            return size
    raise ModelSourceError(
        f"no supported group size divides K of {name} {list(shape)}; "
        "use --group-size -1 (one scale a channel)"
    )
