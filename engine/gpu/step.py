"""What the layers need of a step, on the device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from qoq.kernels.gpu.decode_plan import DecodePlan
from qoq.kernels.gpu.prefill_plan import PrefillPlan
from qoq.kernels.kv_cache import SlotMapping


@dataclass(frozen=True, slots=True)
class GpuStep:
    """``M`` tokens: first ``num_decode_rows`` output tokens, then the prompt tokens.

    ``input_ids`` int64 ``[M]``, ``rope`` fp32 ``[M, 3, D / 2]``. ``decode_tables`` int32
    ``[num_decode_rows, max_blocks]``, ``prefill_tables`` int32 ``[R, max_blocks]``.
    Plans are by sliding window. Tokens past those of the prompts are padding: nobody's.
    """

    input_ids: Tensor
    rope: Tensor
    slots: SlotMapping
    num_decode_rows: int
    decode_tables: Tensor
    decode_plans: Mapping[int | None, DecodePlan]
    prefill_tables: Tensor
    prefill_plans: Mapping[int | None, PrefillPlan]
