"""Logits to log-probabilities, of the tokens that came and of the likeliest ones."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from qoq.scheduler.batch import TokenLogprobs


def token_logprobs(
    logits: Tensor, token_ids: Sequence[int], num_top: Sequence[int]
) -> list[TokenLogprobs]:
    """For each row of fp32 ``logits`` ``[R, V]``: its token, and its ``num_top`` likeliest ones.

    Logits come from the model unchanged: penalties, bias and temperature are no part of what the
    model holds likely. A row's numbers do not depend on the other rows.
    """
    rows = logits.log_softmax(dim=-1)
    return [
        _describe(row, token_id, min(count, row.numel()))
        for row, token_id, count in zip(rows, token_ids, num_top, strict=True)
    ]


def _describe(row: Tensor, token_id: int, num_top: int) -> TokenLogprobs:
    own = row[token_id]
    top = row.topk(num_top)
    return TokenLogprobs(
        token_id=token_id,
        logprob=float(own),
        rank=int((row > own).sum()) + 1,
        top_ids=top.indices.tolist(),
        top_logprobs=top.values.tolist(),
    )
