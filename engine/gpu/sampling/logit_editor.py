"""Penalties, biases, bans and masks of all rows of a step: one launch of each that a row asks for.

What they depend on is on the device, or crosses in one copy; only masks of grammars, which are
made for each token, cross in a copy of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, islice

import torch
from torch import Tensor

from qoq.engine.gpu.sampling.request_edits import RequestEdits
from qoq.engine.gpu.sampling.row_edits import NO_EDITS, RowEdits, join
from qoq.engine.gpu.sampling.sampled_row import SampledRow
from qoq.engine.gpu.sampling.token_counts import TokenCounts
from qoq.engine.gpu.sampling.token_masks import TokenMasks, allowed_rows, grammar_rows
from qoq.engine.gpu.transfer import send_together
from qoq.engine.request_state import RequestState
from qoq.kernels.gpu.sampling.logit_edits import LogitEdits, edit_logits_triton, mask_logits_triton
from qoq.kernels.gpu.sampling.token_counts import Penalties, penalize_triton


class LogitEditor:
    """For the requests in ``max_num_seqs`` slots and a vocabulary of ``vocab_size``."""

    def __init__(self, max_num_seqs: int, vocab_size: int, device: torch.device) -> None:
        self._vocab_size = vocab_size
        self._device = device
        self._edits: dict[int, RequestEdits] = {}
        self._counts = TokenCounts(max_num_seqs, vocab_size, device)
        self._masks = TokenMasks(max_num_seqs, vocab_size, device)

    def enter(self, slot: int, state: RequestState) -> None:
        """A request all of whose tokens are known takes the slot, from whoever had it."""
        self._counts.leave(slot)
        self._edits.pop(slot, None)
        edits = RequestEdits.of(state.sampling, self._vocab_size)
        if edits is None:
            return
        self._edits[slot] = edits
        if edits.has_penalties:
            count = state.num_prompt_tokens
            self._counts.enter(slot, state.token_ids[:count], state.token_ids[count:])
        if state.sampling.allowed_token_ids is not None:
            self._masks.enter(slot, state.sampling.allowed_token_ids)

    def num_known(self, row: SampledRow) -> int:
        """How many of the request's tokens the host must know before the row is edited."""
        edits = self._edits.get(row.slot)
        return 0 if edits is None else edits.num_known(row.position)

    def edit(
        self, logits: Tensor, rows: Sequence[SampledRow], slots: Tensor, last_tokens: Tensor
    ) -> Tensor | None:
        """Change fp32 ``logits`` ``[R, V]`` in place.

        ``slots`` int64 ``[R]`` are the rows', ``last_tokens`` int64 ``[S]`` what slots sampled
        last. Returns the places, int64 ``[R]``, at which ``count`` counts what comes of the rows;
        None where nothing is counted.
        """
        edits = [self._edits.get(row.slot) for row in rows]
        if not any(edits):
            return None
        penalties, biases, allowed, bans, grammars = self._send(
            self._penalties(rows, edits),
            join([edit.biases if edit else NO_EDITS for edit in edits]),
            allowed_rows(rows),
            join([_bans(row, edit) for row, edit in zip(rows, edits, strict=True)]),
            grammar_rows(rows),
        )
        if penalties:
            penalize_triton(logits, Penalties(*penalties[1:]), self._counts.counts, penalties[0])
        if biases:
            edit_logits_triton(logits, LogitEdits(*biases), slots, last_tokens)
        if allowed:
            mask_logits_triton(logits, self._masks.allowed, *allowed)
        if bans:
            edit_logits_triton(logits, LogitEdits(*bans), slots, last_tokens)
        if grammars:
            mask_logits_triton(logits, self._masks.of_grammars(rows), *grammars)
        return penalties[0] if penalties else None

    def count(self, tokens: Tensor, places: Tensor) -> None:
        """The rows' new tokens int64 ``[R]``."""
        self._counts.add(tokens, places)

    def _penalties(
        self, rows: Sequence[SampledRow], edits: Sequence[RequestEdits | None]
    ) -> tuple[Tensor, ...]:
        """Where rows are counted, then the fields of ``Penalties``; empty where none has any."""
        if not any(edit and edit.has_penalties for edit in edits):
            return ()
        asked = [row.state.sampling for row in rows]
        return (
            torch.tensor([self._counts.row(row.slot) for row in rows]),
            torch.tensor([s.repetition_penalty for s in asked], dtype=torch.float32),
            torch.tensor([s.presence_penalty for s in asked], dtype=torch.float32),
            torch.tensor([s.frequency_penalty for s in asked], dtype=torch.float32),
        )

    def _send(self, *groups: tuple[Tensor, ...]) -> list[tuple[Tensor, ...]]:
        sent = iter(send_together(list(chain(*groups)), self._device))
        return [tuple(islice(sent, len(group))) for group in groups]


def _bans(row: SampledRow, edits: RequestEdits | None) -> RowEdits:
    return edits.bans(row.state, row.position) if edits else NO_EDITS
