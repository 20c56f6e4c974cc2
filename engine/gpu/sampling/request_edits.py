"""What one request asks of its logits, on the host, beside the filters of the sampler.

Nearly all of it follows from the request and from how many tokens it has, which the host knows of
a step that has not begun. Whether a bad word of several tokens is being completed depends on the
tokens before: the last one is compared on the device, and the others the host must know, as it
does anyway with two steps in flight. It must know all tokens where a grammar says what may follow
them, and where the bans together leave no token, so that they give way when they all apply.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from qoq.engine.gpu.sampling.row_edits import ALWAYS, RowEdits
from qoq.engine.request_state import RequestState
from qoq.scheduler.request import SamplingParams


@dataclass(frozen=True, slots=True)
class RequestEdits:
    """``num_hidden`` newest tokens may be unknown on the host when logits are edited; None: all."""

    sampling: SamplingParams
    biases: RowEdits
    has_penalties: bool
    num_hidden: int | None
    vocab_size: int

    @classmethod
    def of(cls, sampling: SamplingParams, vocab_size: int) -> RequestEdits | None:
        """None where logits stay as they are."""
        s = sampling
        has_penalties = bool(
            s.presence_penalty or s.frequency_penalty or s.repetition_penalty != 1.0
        )
        has_bans = bool(s.bad_token_ids or s.min_tokens)
        has_masks = s.allowed_token_ids is not None or s.grammar is not None
        if not (has_penalties or has_bans or has_masks or s.logit_bias):
            return None
        biases = [(token, value, ALWAYS) for token, value in dict(s.logit_bias).items()]
        num_hidden = _num_hidden(s, vocab_size)
        return cls(s, RowEdits.of(biases), has_penalties, num_hidden, vocab_size)

    def num_known(self, position: int) -> int:
        """How many tokens the host must know before the one at ``position`` is sampled."""
        return 0 if self.num_hidden is None else position - self.num_hidden

    def bans(self, state: RequestState, position: int) -> RowEdits:
        """Of the token at ``position``."""
        bans = list(self._bans(state, position))
        if _leaves_none(self.sampling, {token for token, *_ in bans}, self.vocab_size):
            return RowEdits.of([])
        return RowEdits.of(bans)

    def _bans(self, state: RequestState, position: int) -> Iterator[tuple[int, float, int]]:
        num_output = position - state.num_prompt_tokens
        if num_output < self.sampling.min_tokens:
            for token in self.sampling.stop_token_ids:
                yield token, -torch.inf, ALWAYS
        if not self.sampling.bad_token_ids:
            return
        output = state.token_ids[state.num_prompt_tokens :]
        is_last_hidden = len(output) < num_output
        for *begun, last in self.sampling.bad_token_ids:
            follows = begun.pop() if begun and is_last_hidden else ALWAYS
            if output[len(output) - len(begun) :] == begun:
                yield last, -torch.inf, follows


def _num_hidden(sampling: SamplingParams, vocab_size: int) -> int | None:
    if sampling.grammar is not None:
        return 0
    if all(len(run) == 1 for run in sampling.bad_token_ids):
        return None
    most_bans = {run[-1] for run in sampling.bad_token_ids}
    if sampling.min_tokens:
        most_bans.update(sampling.stop_token_ids)
    return 0 if _leaves_none(sampling, most_bans, vocab_size) else 1


def _leaves_none(sampling: SamplingParams, banned: set[int], vocab_size: int) -> bool:
    if sampling.allowed_token_ids is None:
        return len(banned) >= vocab_size
    return banned.issuperset(sampling.allowed_token_ids)
