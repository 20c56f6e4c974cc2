"""Logits to tokens on a GPU: parameters go there in one copy, and nothing comes back but tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qoq.engine.gpu.pending_logprobs import PendingLogprobs
from qoq.engine.grammar_mask import mask_by_grammar
from qoq.engine.logit_rules import apply_rules
from qoq.engine.request_state import RequestState
from qoq.engine.sampler import SampleRow, penalize
from qoq.kernels.gpu.sampler import SamplerRows, SamplerWorkspace, sample_triton
from qoq.kernels.gpu.sizes import round_up
from qoq.scheduler.request import SamplingParams


def needs_history(sampling: SamplingParams) -> bool:
    """Whether logits change with which tokens came before, beyond what the model sees."""
    return bool(
        sampling.grammar is not None
        or sampling.bad_token_ids
        or sampling.presence_penalty
        or sampling.frequency_penalty
        or sampling.repetition_penalty != 1.0
        or sampling.min_tokens
    )


def changes_logits(sampling: SamplingParams) -> bool:
    return bool(
        needs_history(sampling) or sampling.logit_bias or sampling.allowed_token_ids is not None
    )


class GpuSampler:
    """For up to ``max_rows`` rows of ``vocab_size`` logits."""

    def __init__(self, max_rows: int, vocab_size: int, device: torch.device) -> None:
        self._device = device
        self._workspace = SamplerWorkspace.allocate(max_rows, vocab_size, device)

    def sample(
        self, logits: Tensor, states: Sequence[RequestState], positions: Sequence[int]
    ) -> tuple[Tensor, PendingLogprobs | None]:
        """Tokens int64 ``[R]`` of fp32 ``logits`` ``[R, V]``, at ``positions`` of their requests.

        And the log-probabilities for those that asked.
        """
        rows = self._rows(states, positions)
        changed = [place for place, state in enumerate(states) if changes_logits(state.sampling)]
        unchanged = logits
        if changed:
            logits = logits.clone()
            for place in changed:
                _change(logits[place], states[place])
            mask_by_grammar(logits, [state.matcher for state in states])
        tokens = torch.empty(len(states), dtype=torch.int64, device=self._device)
        sample_triton(logits, rows, tokens, self._workspace)
        return tokens, self._score(unchanged, tokens, states)

    def _score(
        self, logits: Tensor, tokens: Tensor, states: Sequence[RequestState]
    ) -> PendingLogprobs | None:
        asked = {
            place: state.sampling.logprobs
            for place, state in enumerate(states)
            if state.sampling.logprobs is not None
        }
        if not asked:
            return None
        rows = self._send(torch.tensor(list(asked)))
        return PendingLogprobs(list(asked), list(asked.values()), logits[rows], tokens[rows])

    def warm_up(self, logits: Tensor) -> None:
        """Compile for logits like these, fp32 ``[1, V]``."""
        sampling = SamplingParams(max_tokens=1, logprobs=0)
        self.sample(logits, [RequestState([0], 1, sampling, None, None)], [1])

    def _rows(self, states: Sequence[RequestState], positions: Sequence[int]) -> SamplerRows:
        count = len(states)
        # Each parameter begins at 16 bytes, for which kernels are compiled.
        memory = torch.zeros(4, round_up(count, 4), dtype=torch.int64)
        rows, asked = _first(SamplerRows.over(memory), count), [s.sampling for s in states]
        rows.temperature.copy_(torch.tensor([s.temperature for s in asked]))
        rows.top_k.copy_(torch.tensor([s.top_k for s in asked]))
        rows.top_p.copy_(torch.tensor([s.top_p for s in asked]))
        rows.min_p.copy_(torch.tensor([s.min_p for s in asked]))
        rows.seed.copy_(torch.tensor([_signed(s.seed) for s in asked]))
        rows.position.copy_(torch.tensor(positions))
        return _first(SamplerRows.over(self._send(memory)), count)

    def _send(self, tensor: Tensor) -> Tensor:
        if self._device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self._device, non_blocking=True)


def _signed(seed: int) -> int:
    """Its low 64 bits, which are all that random numbers depend on, as an int64."""
    return (seed + 2**63) % 2**64 - 2**63


def _first(rows: SamplerRows, count: int) -> SamplerRows:
    return SamplerRows(*(part[:count] for part in rows))


def _change(logits: Tensor, state: RequestState) -> None:
    """One row's ``[V]``."""
    row = SampleRow(state.sampling, state.token_ids, state.num_prompt_tokens)
    penalize(logits, row)
    output = state.token_ids[state.num_prompt_tokens :]
    apply_rules(logits, state.sampling, output)
