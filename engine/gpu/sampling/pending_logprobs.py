"""Log-probabilities of a step's tokens, computed on the device and on their way to the host."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qoq.kernels.gpu.sampling.token_logprobs import token_logprobs_triton
from qoq.scheduler.batch import TokenLogprobs

# So many likeliest tokens are found whatever is asked, up to it: one kernel, compiled at the start.
NUM_TOP = 20


class PendingLogprobs:
    """Of the rows ``places`` of a step: ``logits`` fp32 ``[R, V]``, ``tokens`` int64 ``[R]``.

    Of each row's likeliest tokens, ``num_top`` are told.
    """

    def __init__(
        self, places: Sequence[int], num_top: Sequence[int], logits: Tensor, tokens: Tensor
    ) -> None:
        most = min(max(NUM_TOP, *num_top), logits.shape[1])
        rows = token_logprobs_triton(logits, tokens, most)
        self._places = places
        self._num_top = num_top
        self._parts = [_to_host(part) for part in (tokens, *rows)]

    def take(self) -> dict[int, TokenLogprobs]:
        """By place, once the device is past the step."""
        columns = zip(
            self._places, self._num_top, *(part.tolist() for part in self._parts), strict=True
        )
        return {
            place: TokenLogprobs(token, logprob, rank, ids[:count], logprobs[:count])
            for place, count, token, logprob, rank, ids, logprobs in columns
        }


def _to_host(tensor: Tensor) -> Tensor:
    if not tensor.is_cuda:
        return tensor
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)
