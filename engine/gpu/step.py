"""What the layers need of a step, on the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qoq.kernels.gpu.attention.decode_plan import DecodePlan
from qoq.kernels.gpu.attention.prefill_plan import PrefillPlan
from qoq.kernels.gpu.embedding import embed_triton
from qoq.kernels.gpu.quantized_rows import QuantizedRows
from qoq.kernels.kv_cache import SlotMapping


@dataclass(frozen=True, slots=True)
class PrefillPart:
    """Prompts that attend together: plans by sliding window, tables int32 ``[R, max_blocks]``."""

    plans: Mapping[int | None, PrefillPlan]
    tables: Tensor


@dataclass(frozen=True, slots=True)
class AttentionInputs:
    """What only attention needs, and the host decides anew in each step.

    Block tables of the decode rows int32 ``[R, max_blocks]``; their plans are by sliding window.
    """

    decode_tables: Tensor
    decode_plans: Mapping[int | None, DecodePlan]
    prefills: Sequence[PrefillPart]

    def run(self, attend: Attend, q: Tensor, out: QuantizedRows) -> None:
        attend(self, q, out)


# A layer's attention over the cache: from queries ``[M, Hq, D]`` into rows of ``Hq * D``.
Attend = Callable[[AttentionInputs, Tensor, QuantizedRows], None]
RunAttention = Callable[[Attend, Tensor, QuantizedRows], None]


@dataclass(frozen=True, slots=True)
class GpuStep:
    """``M`` tokens: first output tokens, one a request, then the prompt tokens.

    ``token_ids`` int64 ``[M]``; a negative one is what ``last_tokens`` int64 ``[S + 1]`` has for
    the token's ``request_slots`` int64 ``[M]``. ``rope`` fp32 ``[M, 3, D / 2]``. Tokens past those
    of the prompts are padding: nobody's. ``attend`` gets each layer's attention to run.
    """

    token_ids: Tensor
    request_slots: Tensor
    last_tokens: Tensor
    rope: Tensor
    slots: SlotMapping
    attend: RunAttention

    def embed(self, table: Tensor, dtype: torch.dtype) -> Tensor:
        return embed_triton(table, self.token_ids, self.request_slots, self.last_tokens, dtype)
