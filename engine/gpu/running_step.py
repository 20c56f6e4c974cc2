"""A step that the device may still be at: its tokens arrive in pinned memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

from qoq.engine.gpu.sampling.pending_logprobs import PendingLogprobs
from qoq.engine.request_state import RequestState
from qoq.engine.step_result import StepResult


class GpuRunningStep:
    """``tokens`` int64 ``[R]`` on the device, of the requests ``states`` with ids ``request_ids``.

    ``logprobs`` are those of the requests that asked.
    """

    def __init__(
        self,
        tokens: Tensor,
        request_ids: Sequence[str],
        states: Sequence[RequestState],
        logprobs: PendingLogprobs | None,
    ) -> None:
        self._request_ids = request_ids
        self._states = states
        self._logprobs = logprobs
        self._tokens = tokens
        self._done: torch.cuda.Event | None = None
        self._result: StepResult | None = None
        if tokens.is_cuda:
            self._tokens = torch.empty(tokens.shape, dtype=tokens.dtype, pin_memory=True)
            self._tokens.copy_(tokens, non_blocking=True)
            self._done = torch.cuda.Event()
            self._done.record()

    @property
    def is_known(self) -> bool:
        """Whether ``result`` has been asked for."""
        return self._result is not None

    def result(self) -> StepResult:
        """Waits for the device. May be called again."""
        if self._result is None:
            self._result = self._take()
        return self._result

    def _take(self) -> StepResult:
        if self._done is not None:
            self._done.synchronize()
        token_ids: list[int] = self._tokens.tolist()
        logprobs = {} if self._logprobs is None else self._logprobs.take()
        extras = {}
        for place, state in enumerate(self._states):
            if (extra := state.take_extras(logprobs.get(place))) is not None:
                extras[self._request_ids[place]] = extra
        taken = [state.take(token) for state, token in zip(self._states, token_ids, strict=True)]
        return StepResult(taken, extras)


class RunningSteps:
    """The steps whose tokens the host does not know, in their order."""

    def __init__(self) -> None:
        self._steps: deque[GpuRunningStep] = deque()

    def add(self, step: GpuRunningStep) -> None:
        while self._steps and self._steps[0].is_known:
            self._steps.popleft()
        self._steps.append(step)

    def wait_for(self, state: RequestState, num_tokens: int) -> None:
        """Until the host knows so many tokens of the request, and no longer."""
        while len(state.token_ids) < num_tokens:
            self._steps.popleft().result()
