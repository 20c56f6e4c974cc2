"""Run by test_interpreted in a process of its own: tokens are those of the sampler's definition.

Whoever is in the batch, however many steps are in flight, across preemptions and used slots.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor

from qoq.engine.gpu.sampling import gpu_sampler as sampling
from qoq.engine.gpu.sampling import logit_editor, pending_logprobs, token_counts
from qoq.engine.gpu.sampling.gpu_sampler import GpuSampler
from qoq.engine.sampler import SampleRow, sample
from qoq.kernels.gpu.sampling.sampler import SamplerRows, SamplerWorkspace
from qoq.scheduler import scheduler
from qoq.scheduler.request import SamplingParams

from ...kernels.gpu import interpreter  # noqa: F401
from .given_logits import NAMES, GivenLogitsRunner, check_logprobs, expected_tokens, limits, run

# numpy's, of rows that are padding.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

VOCAB = 272
MAX_NUM_SEQS, NUM_BLOCKS = 4, 5

expected = cache(expected_tokens)


def sample_by_definition(
    logits: Tensor, rows: SamplerRows, out: Tensor, workspace: SamplerWorkspace
) -> None:
    """In the place of the sampler's kernels, which take the interpreter longest."""
    for row in range(len(logits)):
        temperature, top_k, *_, seed, position = (part[row].item() for part in rows)
        params = SamplingParams(max_tokens=1, temperature=temperature, top_k=top_k, seed=seed)
        (out[row],) = sample(logits[row : row + 1].clone(), [SampleRow(params, range(position), 0)])


@pytest.mark.parametrize("steps_in_flight", [1, 2, 6])
def test_tokens_are_the_definition_s(steps_in_flight: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(scheduler, "_RESERVED_STEPS", 0)
    monkeypatch.setattr(sampling, "sample_triton", sample_by_definition)
    monkeypatch.setattr(pending_logprobs, "NUM_TOP", 2)
    monkeypatch.setattr(token_counts, "FIRST_ROWS", 1)
    runner = GivenLogitsRunner(VOCAB, torch.device("cpu"), MAX_NUM_SEQS)
    done, stats = run(runner, steps_in_flight, limits(MAX_NUM_SEQS, NUM_BLOCKS))
    assert stats.num_preemptions > 0
    for name in NAMES:
        assert done[name].token_ids == expected(name, VOCAB), name
        check_logprobs(name, done[name], VOCAB)
    for name in ("grammar", "grammar and all else", "bans give way"):
        assert runner.most_hidden[name] == 0
    assert runner.most_hidden["bad words"] == min(1, steps_in_flight - 1)
    assert runner.most_hidden["rewards"] >= min(2, steps_in_flight - 1)


def test_warming_up_launches_all_that_sampling_may(monkeypatch: pytest.MonkeyPatch):
    launched = set()
    for module in (sampling, logit_editor, token_counts, pending_logprobs):
        for name in [name for name in vars(module) if name.endswith("_triton")]:
            inner = getattr(module, name)

            def listening(*args: object, name: str = name, inner: Callable = inner) -> object:
                launched.add(name)
                return inner(*args)

            monkeypatch.setattr(module, name, listening)
    GpuSampler(2, VOCAB, torch.device("cpu")).warm_up(torch.zeros(1, VOCAB))
    assert launched == {
        "sample_triton",
        "penalize_triton",
        "edit_logits_triton",
        "mask_logits_triton",
        "count_sampled_triton",
        "token_logprobs_triton",
    }
