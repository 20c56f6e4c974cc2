"""Log-probabilities against float64, and those of an output against a second, scoring run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from qoq.engine.config import EngineConfig
from qoq.engine.llm import LLM, Completion
from qoq.engine.logprobs import token_logprobs
from qoq.engine.protocol import SamplingParams

from .manual_steps import make_runner, random_tokens, run_chunks

VOCAB = 96
PROMPTS = [random_tokens(count, VOCAB, seed=count) for count in (1, 2, 63, 64, 65, 150)]
SCORED = SamplingParams(max_tokens=12, seed=3, logprobs=4, prompt_logprobs=2)


def test_matches_float64():
    """Rounding: fp32 logits of size L and a sum over V terms leave about (L + log V) / 2^23."""
    logits = 8 * torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    expected = logits.double().log_softmax(dim=-1)
    tolerance = (logits.abs().max().item() + 4) * 2**-22
    for row, found in enumerate(token_logprobs(logits, [7, 0, 49], [5, 0, 80])):
        token = (7, 0, 49)[row]
        assert found.logprob == pytest.approx(expected[row, token].item(), abs=tolerance)
        order = expected[row].argsort(descending=True).tolist()
        assert found.rank == order.index(token) + 1
        assert found.top_ids == order[: (5, 0, 50)[row]]
        values = expected[row, found.top_ids].tolist()
        assert found.top_logprobs == pytest.approx(values, abs=tolerance)


def generate(model: Path, prompts: list[list[int]], sampling: SamplingParams, **settings: object):
    llm = LLM(EngineConfig(model=model, num_threads=1, **{"kv_cache_bytes": 2**25, **settings}))
    try:
        return llm.generate(prompts, sampling)
    finally:
        llm.close()


@pytest.fixture(scope="module")
def alone(tiny_quantized: Path) -> list[Completion]:
    return [generate(tiny_quantized, [prompt], SCORED)[0] for prompt in PROMPTS]


def test_prompt_logprobs_are_those_of_the_logits(tiny_quantized: Path, alone: list[Completion]):
    for prompt, completion in zip(PROMPTS, alone, strict=True):
        logits = run_chunks(make_runner(tiny_quantized), prompt, [len(prompt)])[:-1]
        expected = token_logprobs(logits, prompt[1:], [2] * (len(prompt) - 1))
        assert completion.prompt_logprobs == expected


def test_an_output_scored_as_a_prompt_has_its_logprobs(
    tiny_quantized: Path, alone: list[Completion]
):
    """Fails where logprobs come from changed logits, or belong to a neighbor's row or token."""
    whole = [prompt + c.token_ids for prompt, c in zip(PROMPTS, alone, strict=True)]
    scoring = SamplingParams(max_tokens=1, prompt_logprobs=4)
    for prompt, first, second in zip(
        PROMPTS, alone, generate(tiny_quantized, whole, scoring), strict=True
    ):
        assert first.logprobs == second.prompt_logprobs[len(prompt) - 1 :]


@pytest.mark.parametrize(
    "settings",
    [
        {"max_num_batched_tokens": 16},
        {"max_num_batched_tokens": 7, "steps_in_flight": 1},
        {"kv_cache_bytes": 6 * 64 * 2 * 64 * 2},
    ],
    ids=["chunks", "small chunks", "few blocks"],
)
def test_do_not_depend_on_company(
    tiny_quantized: Path, alone: list[Completion], settings: dict[str, object]
):
    together = generate(tiny_quantized, PROMPTS * 2, SCORED, **settings)
    for index, completion in enumerate(together):
        first = alone[index % len(PROMPTS)]
        assert completion.token_ids == first.token_ids
        assert completion.logprobs == first.logprobs
        assert completion.prompt_logprobs == first.prompt_logprobs


def test_come_from_logits_before_penalties_bias_and_temperature(
    tiny_quantized: Path, alone: list[Completion]
):
    changed = SamplingParams(
        max_tokens=1, temperature=0.1, repetition_penalty=3.0, logit_bias=((5, 100.0),), logprobs=4
    )
    (completion,) = generate(tiny_quantized, [PROMPTS[3]], changed)
    assert completion.token_ids == [5]
    assert completion.logprobs[0].top_logprobs == alone[3].logprobs[0].top_logprobs
    assert completion.logprobs[0].logprob < -0.01


def test_nothing_comes_unasked(tiny_quantized: Path):
    (completion,) = generate(tiny_quantized, [[1, 2, 3]], SamplingParams(max_tokens=3))
    assert (completion.logprobs, completion.prompt_logprobs, completion.embedding) == ([], [], [])
