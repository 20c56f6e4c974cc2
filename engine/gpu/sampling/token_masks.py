"""Masks of tokens that may come, on the device: a bit a token, in words of 32.

A mask takes 16 KB for Llama 3's 128,256 tokens. Those of ``allowed_token_ids`` are made once and
have a place for each slot, 4 MB for 256 requests; those of grammars are made for each token.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qoq.engine.gpu.sampling.sampled_row import SampledRow
from qoq.engine.gpu.transfer import send_together
from qoq.engine.grammar_mask import grammar_masks
from qoq.kernels.gpu.sizes import cdiv

NO_MASK = -1


class TokenMasks:
    """``allowed`` int32 ``[S, ceil(V / 32)]``."""

    def __init__(self, max_num_seqs: int, vocab_size: int, device: torch.device) -> None:
        shape = (max_num_seqs, cdiv(vocab_size, 32))
        self._vocab_size = vocab_size
        self.allowed = torch.empty(shape, dtype=torch.int32, device=device)

    def enter(self, slot: int, allowed_token_ids: Sequence[int]) -> None:
        mask = bytearray(self.allowed.shape[1] * 4)
        for token in allowed_token_ids:
            mask[token // 8] |= 1 << token % 8
        sent = send_together([torch.frombuffer(mask, dtype=torch.int32)], self.allowed.device)
        self.allowed[slot] = sent[0]

    def of_grammars(self, rows: Sequence[SampledRow]) -> Tensor:
        """Int32 ``[N, ceil(V / 32)]``, of the rows that have one."""
        matchers = [row.state.matcher for row in rows if row.state.matcher is not None]
        is_cuda = self.allowed.is_cuda
        masks = grammar_masks(matchers, self._vocab_size, is_pinned=is_cuda)
        return masks.to(self.allowed.device, non_blocking=True)


def allowed_rows(rows: Sequence[SampledRow]) -> tuple[Tensor, ...]:
    """Each row's place in ``allowed``, int32 ``[R]``; empty where no row has one."""
    places = [NO_MASK if row.state.sampling.allowed_token_ids is None else row.slot for row in rows]
    return _places(places)


def grammar_rows(rows: Sequence[SampledRow]) -> tuple[Tensor, ...]:
    """Each row's place in what ``of_grammars`` gives, int32 ``[R]``; empty where none has one."""
    matchers = (row.state.matcher for row in rows)
    places = iter(range(len(rows)))
    return _places([NO_MASK if matcher is None else next(places) for matcher in matchers])


def _places(places: list[int]) -> tuple[Tensor, ...]:
    if all(place == NO_MASK for place in places):
        return ()
    return (torch.tensor(places, dtype=torch.int32),)
