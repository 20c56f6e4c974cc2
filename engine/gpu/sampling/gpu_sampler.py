"""Logits to tokens on a GPU: parameters go there in one copy, and nothing comes back but tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qoq.engine.gpu.sampling.logit_editor import LogitEditor
from qoq.engine.gpu.sampling.pending_logprobs import PendingLogprobs
from qoq.engine.gpu.sampling.sampled_row import SampledRow
from qoq.engine.gpu.transfer import send_together
from qoq.engine.request_state import RequestState
from qoq.kernels.gpu.sampling.sampler import SamplerRows, SamplerWorkspace, sample_triton
from qoq.kernels.gpu.sizes import round_up
from qoq.scheduler.request import SamplingParams

# Launches all kernels that any other may.
_WARM_UP = SamplingParams(
    max_tokens=1,
    presence_penalty=1.0,
    stop_token_ids=(0,),
    min_tokens=1,
    logit_bias=((0, 1.0),),
    allowed_token_ids=(0, 1),
    logprobs=0,
)


class GpuSampler:
    """For the requests in ``max_num_seqs`` slots and a vocabulary of ``vocab_size``."""

    def __init__(self, max_num_seqs: int, vocab_size: int, device: torch.device) -> None:
        self._device = device
        self._editor = LogitEditor(max_num_seqs, vocab_size, device)
        self._workspace = SamplerWorkspace.allocate(max_num_seqs, vocab_size, device)

    def enter(self, slot: int, state: RequestState) -> None:
        """A request all of whose tokens are known takes the slot, from whoever had it."""
        self._editor.enter(slot, state)

    def num_known(self, row: SampledRow) -> int:
        """How many of the request's tokens the host must know before the row is sampled."""
        return self._editor.num_known(row)

    def sample(
        self, logits: Tensor, rows: Sequence[SampledRow], slots: Tensor, last_tokens: Tensor
    ) -> tuple[Tensor, PendingLogprobs | None]:
        """Tokens int64 ``[R]`` of fp32 ``logits`` ``[R, V]``, which are overwritten.

        And the log-probabilities for those that asked. ``slots`` int64 ``[R]`` are the rows',
        ``last_tokens`` int64 ``[S]`` what slots sampled last.
        """
        parameters = self._parameters(rows)
        tokens = torch.empty(len(rows), dtype=torch.int64, device=self._device)
        asked = {
            place: row.state.sampling.logprobs
            for place, row in enumerate(rows)
            if row.state.sampling.logprobs is not None
        }
        scored = self._send(torch.tensor(list(asked))) if asked else None
        unedited = None if scored is None else logits[scored]
        places = self._editor.edit(logits, rows, slots, last_tokens)
        sample_triton(logits, parameters, tokens, self._workspace)
        if places is not None:
            self._editor.count(tokens, places)
        if scored is None or unedited is None:
            return tokens, None
        return tokens, PendingLogprobs(list(asked), list(asked.values()), unedited, tokens[scored])

    def warm_up(self, logits: Tensor) -> None:
        """Compile for logits like these, fp32 ``[1, V]``."""
        state = RequestState([0], 1, _WARM_UP, None, None)
        self.enter(0, state)
        nobody = torch.zeros(1, dtype=torch.int64, device=self._device)
        self.sample(logits, [SampledRow(state, 0, 1)], nobody, nobody)

    def _parameters(self, rows: Sequence[SampledRow]) -> SamplerRows:
        count = len(rows)
        # Each parameter begins at 16 bytes, for which kernels are compiled.
        memory = torch.zeros(4, round_up(count, 4), dtype=torch.int64)
        host, asked = _first(SamplerRows.over(memory), count), [row.state.sampling for row in rows]
        host.temperature.copy_(torch.tensor([s.temperature for s in asked]))
        host.top_k.copy_(torch.tensor([s.top_k for s in asked]))
        host.top_p.copy_(torch.tensor([s.top_p for s in asked]))
        host.min_p.copy_(torch.tensor([s.min_p for s in asked]))
        host.seed.copy_(torch.tensor([_signed(s.seed) for s in asked]))
        host.position.copy_(torch.tensor([row.position for row in rows]))
        return _first(SamplerRows.over(self._send(memory)), count)

    def _send(self, tensor: Tensor) -> Tensor:
        return send_together([tensor], self._device)[0]


def _signed(seed: int) -> int:
    """Its low 64 bits, which are all that random numbers depend on, as an int64."""
    return (seed + 2**63) % 2**64 - 2**63


def _first(rows: SamplerRows, count: int) -> SamplerRows:
    return SamplerRows(*(part[:count] for part in rows))
