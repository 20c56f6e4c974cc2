"""On a GPU: tokens are those of the sampler's definition, and who waits for whom."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="needs triton, which torch's CPU builds leave out")

from qoq.engine.engine import Engine
from qoq.engine.gpu.running_step import GpuRunningStep
from qoq.engine.gpu.sampling.gpu_sampler import GpuSampler
from qoq.kernels.gpu.sampling import logit_edits, token_counts
from qoq.scheduler import scheduler
from qoq.scheduler.batch import Batch
from qoq.scheduler.scheduler import Scheduler

from .given_logits import (
    NAMES,
    GivenLogitsRunner,
    check_logprobs,
    expected_tokens,
    limits,
    request,
    run,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

VOCAB = 128256
FORWARD_CYCLES = 2 * 10**8  # some 0.1 s

expected = cache(expected_tokens)


def make_runner(max_num_seqs: int) -> GivenLogitsRunner:
    return GivenLogitsRunner(VOCAB, torch.device("cuda"), max_num_seqs)


def num_compiled() -> int:
    kernels = (
        logit_edits._edit_kernel,
        logit_edits._mask_kernel,
        token_counts._count_kernel,
        token_counts._penalize_kernel,
    )
    device = torch.cuda.current_device()
    return sum(len(kernel.device_caches[device][0]) for kernel in kernels)


def test_nothing_is_compiled_after_warming_up():
    """First in this file: what another test compiled would not be compiled here."""
    GpuSampler(1, VOCAB, torch.device("cuda")).warm_up(torch.zeros(1, VOCAB, device="cuda"))
    before = num_compiled()
    run(make_runner(16), 2, limits(16, 64))
    assert num_compiled() == before


@pytest.mark.parametrize("steps_in_flight", [1, 2, 6])
@pytest.mark.parametrize(("max_num_seqs", "num_blocks"), [(1, 2), (4, 5), (16, 64)])
def test_tokens_are_the_definition_s(
    max_num_seqs: int, num_blocks: int, steps_in_flight: int, monkeypatch: pytest.MonkeyPatch
):
    """Alone, under pressure, and all together."""
    monkeypatch.setattr(scheduler, "_RESERVED_STEPS", 0)
    runner = make_runner(max_num_seqs)
    done, stats = run(runner, steps_in_flight, limits(max_num_seqs, num_blocks))
    assert (stats.num_preemptions > 0) == (max_num_seqs == 4)
    for name in NAMES:
        assert done[name].token_ids == expected(name, VOCAB), name
        check_logprobs(name, done[name], VOCAB)


class SlowRunner(GivenLogitsRunner):
    """``at_return`` says of each step whether the one before, and it, were done by then."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.at_return: list[tuple[bool, bool]] = []
        self._before: GpuRunningStep | None = None

    def _logits(self, plan: object, places: list[int], is_in_order: bool) -> torch.Tensor:
        logits = super()._logits(plan, places, is_in_order)
        torch.cuda._sleep(FORWARD_CYCLES)
        return logits

    def submit(self, batch: Batch) -> GpuRunningStep:
        step = super().submit(batch)
        if self._before is not None:
            self.at_return.append((is_done(self._before), is_done(step)))
        self._before = step
        return step


def is_done(step: GpuRunningStep) -> bool:
    assert step._done is not None
    return step._done.query()


def returns(names: Sequence[str]) -> set[tuple[bool, bool]]:
    """Of the second time, when all kernels are loaded."""
    for _ in range(2):
        runner = SlowRunner(VOCAB, torch.device("cuda"), 16)
        engine = Engine(Scheduler(limits(16, 64)), runner, steps_in_flight=2)
        for name in names:
            engine.add(request(name))
        while engine.has_work:
            engine.step()
    return set(runner.at_return)


def test_the_device_is_not_waited_for_where_it_decides():
    others = [name for name in NAMES if "grammar" not in name and name != "bans give way"]
    assert returns(others) == {(False, False)}


def test_the_device_computes_while_the_host_waits_for_a_grammar_s_token():
    assert returns(["grammar", "grammar and all else"]) == {(True, False)}
