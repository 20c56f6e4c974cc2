"""Token ids to rows of the embedding table, where an id may be one that only the device knows."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from qoq.kernels.gpu.sampling.logit_checks import check_vector
from qoq.kernels.gpu.sizes import cdiv

_BLOCK = 1024


def embed_triton(
    table: Tensor, token_ids: Tensor, slots: Tensor, last_tokens: Tensor, dtype: torch.dtype
) -> Tensor:
    """``[M, K]`` in ``dtype``: rows of ``table`` ``[V, K]``.

    ``token_ids`` int64 ``[M]``; where one is negative, the id is ``last_tokens[slot]``, of
    ``slots`` int64 ``[M]`` and ``last_tokens`` int64 ``[S]``. An id or a slot out of range gives
    a row of zeros.

    Raises:
        ValueError: a shape or dtype does not match; the message names the tensor.
    """
    if table.dim() != 2 or table.stride(1) != 1:
        raise ValueError(f"table: expected [V, K], rows contiguous, got {list(table.shape)}")
    m, (vocab_size, k) = token_ids.numel(), table.shape
    check_vector("token_ids", token_ids, m, torch.int64)
    check_vector("slots", slots, m, torch.int64)
    check_vector("last_tokens", last_tokens, None, torch.int64)
    out = torch.empty(m, k, dtype=dtype, device=table.device)
    if m:
        _embed_kernel[(m, cdiv(k, _BLOCK))](
            table,
            token_ids,
            slots,
            last_tokens,
            out,
            vocab_size,
            last_tokens.numel(),
            table.stride(0),
            K=k,
            BLOCK=_BLOCK,
            num_warps=4,
        )
    return out


@triton.jit
def _embed_kernel(
    table_ptr,
    token_ptr,
    slot_ptr,
    last_ptr,
    out_ptr,
    V,
    num_slots,
    stride_table,
    K: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    token = tl.load(token_ptr + row)
    slot = tl.load(slot_ptr + row)
    has_slot = (token < 0) & (slot >= 0) & (slot < num_slots)
    token = tl.where(has_slot, tl.load(last_ptr + slot, mask=has_slot, other=-1), token)
    is_token = (token >= 0) & (token < V)
    values = tl.load(
        table_ptr + token * stride_table + column, mask=is_token & (column < K), other=0.0
    )
    tl.store(out_ptr + row * K + column, values.to(out_ptr.dtype.element_ty), mask=column < K)
