"""The sampler against its definition, token by token in plain Python."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qoq.engine.protocol import SamplingParams
from qoq.engine.sampler import SampleRow, sample

DRAWN = SamplingParams(max_tokens=1)
GREEDY = SamplingParams(max_tokens=1, temperature=0.0)


def draw(logits: list[float], sampling: SamplingParams, count: int) -> list[int]:
    """``count`` draws of one request at consecutive positions."""
    rows = [SampleRow(sampling, [0] * (position + 1), position + 1) for position in range(count)]
    return sample(torch.tensor(logits).repeat(count, 1), rows)


def greedy(logits: list[float], token_ids: list[int], num_prompt: int, **penalty: float) -> int:
    row = SampleRow(replace(GREEDY, **penalty), token_ids, num_prompt)
    return sample(torch.tensor([logits]), [row])[0]


def allowed_tokens(logits: list[float], sampling: SamplingParams) -> set[int]:
    """Top-k, then top-p of what is left, then min-p of the largest; ties of the last stay."""
    largest = max(logits)
    weights = [math.exp((x - largest) / sampling.temperature) for x in logits]
    kept = sorted(weights, reverse=True)
    if 0 < sampling.top_k < len(kept):
        kept = kept[: sampling.top_k]
    if sampling.top_p < 1:
        goal, mass, count = sampling.top_p * sum(kept), 0.0, 0
        while count < len(kept) and mass < goal:
            mass += kept[count]
            count += 1
        kept = kept[: max(count, 1)]
    threshold = max(kept[-1], sampling.min_p)
    return {token for token, weight in enumerate(weights) if weight >= threshold}


# Steps of 1/2 are exact in fp32, so that ties are ties and sums do not sit on an edge by chance.
LOGITS = st.lists(st.integers(-16, 16).map(lambda x: x / 2), min_size=1, max_size=40)
# Not reached by sums of weights e^(-i/2), so that no rounding decides about a token.
SHARES = st.sampled_from([0.0, 0.0137, 0.211, 0.5003, 0.8117, 0.97351])


@settings(deadline=None, max_examples=150)
@given(
    LOGITS,
    st.integers(0, 45),
    st.one_of(st.just(1.0), SHARES),
    SHARES,
    st.sampled_from([0.5, 1.0, 2.0]),
)
def test_draws_from_exactly_the_allowed_tokens(
    logits: list[float], top_k: int, top_p: float, min_p: float, temperature: float
):
    """Every draw is allowed; and raised to equal weights, every allowed token is drawn."""
    sampling = replace(DRAWN, top_k=top_k, top_p=top_p, min_p=min_p, temperature=temperature)
    allowed = allowed_tokens(logits, sampling)
    drawn = set(draw(logits, sampling, 100))
    assert drawn <= allowed
    if len(allowed) == 1:
        assert drawn == allowed
    likely = {token for token in allowed if logits[token] >= max(logits) - temperature}
    if len(likely) == len(allowed) <= 5:  # each has at least e^-1 / 5 of the mass: 4e-4 a miss
        assert drawn == allowed


@pytest.mark.parametrize("size", [100, 5000])
def test_keeps_the_whole_mass_of_a_flat_vocabulary(size: int):
    """Equal logits are all tied, whatever top-p asks: one of each half must be drawn."""
    drawn = draw([0.0] * size, replace(DRAWN, top_p=0.5), 64)
    assert min(drawn) < size / 2 < max(drawn)


def test_top_p_looks_past_the_first_tokens():
    """The mass of the largest few hundred does not do here; the search must go on to 600."""
    logits = [-(index // 2) / 1000 for index in range(4000)]
    sampling = replace(DRAWN, top_p=0.3)
    drawn = draw(logits, sampling, 500)
    assert max(drawn) <= max(allowed_tokens(logits, sampling)) < 2000
    assert max(drawn) > 500


@pytest.mark.parametrize(
    "sampling",
    [
        DRAWN,
        replace(DRAWN, temperature=0.5),
        replace(DRAWN, top_k=8),
        replace(DRAWN, top_p=0.9),
        replace(DRAWN, min_p=0.05),
    ],
)
def test_frequencies_are_those_of_the_softmax(sampling: SamplingParams):
    """Chi-square with at most 15 degrees of freedom: above 45 once in 10 000."""
    logits = torch.randn(16, generator=torch.Generator().manual_seed(1)).tolist()
    allowed = sorted(allowed_tokens(logits, sampling))
    weights = torch.tensor([logits[token] for token in allowed], dtype=torch.float64)
    shares = (weights / sampling.temperature).softmax(0).tolist()
    drawn = draw(logits, replace(sampling, seed=5), 4000)
    assert set(drawn) <= set(allowed)
    expected = [4000 * share for share in shares]
    counts = [drawn.count(token) for token in allowed]
    assert sum((n - e) ** 2 / e for n, e in zip(counts, expected, strict=True)) < 45


def test_a_seed_decides_all_draws_and_another_gives_others():
    logits = [0.0] * 50
    first, second = (draw(logits, replace(DRAWN, seed=seed), 50) for seed in (1, 2))
    assert first == draw(logits, replace(DRAWN, seed=1), 50)
    assert first != second
    assert len(set(first)) > 20  # the position counts too


def test_greedy_takes_the_first_of_equal_logits():
    """Wherever the ties lie in the vocabulary, or a batch would differ from a single row."""
    for size in (5, 1000, 49152):
        logits = torch.zeros(3, size)
        logits[:, [size - 3, size - 1]] = 1.0
        assert sample(logits, [SampleRow(GREEDY, [0], 1)] * 3) == [size - 3] * 3


def test_repetition_penalty_divides_positive_and_multiplies_negative_logits():
    """Of prompt and output, each token once; the wrong side would reward repetition."""
    assert greedy([2.0, 1.1, 0.0], [0, 0], 1, repetition_penalty=2.0) == 1
    assert greedy([2.0, 0.9, 0.0], [0, 0], 1, repetition_penalty=2.0) == 0
    assert greedy([-1.0, -1.9, -9.0], [0], 1, repetition_penalty=2.0) == 1
    assert greedy([-1.0, -2.1, -9.0], [0], 1, repetition_penalty=2.0) == 0


def test_presence_and_frequency_penalties_count_the_output_only():
    logits, output = [3.0, 2.0, 0.0], [0, 0, 0]
    assert greedy(logits, [0, 0, 0], 3, presence_penalty=5.0, frequency_penalty=5.0) == 0
    assert greedy(logits, [2, *output], 1, presence_penalty=1.1) == 1
    assert greedy(logits, [2, *output], 1, presence_penalty=0.9) == 0
    assert greedy(logits, [2, *output], 1, frequency_penalty=0.34) == 1
    assert greedy(logits, [2, *output], 1, frequency_penalty=0.33) == 0
    assert greedy([2.0, 0.0], [1, 1], 1, presence_penalty=-2.1) == 1


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_a_row_does_not_depend_on_the_others(data: st.DataObject):
    """With every filter and penalty, and rows of a real vocabulary's length."""
    vocab_size = data.draw(st.sampled_from([7, 1023, 49152]))
    sampling = st.builds(
        SamplingParams,
        max_tokens=st.just(1),
        temperature=st.sampled_from([0.0, 0.7, 1.0]),
        top_k=st.sampled_from([0, 1, 40]),
        top_p=st.sampled_from([1.0, 0.9]),
        min_p=st.sampled_from([0.0, 0.02]),
        presence_penalty=st.sampled_from([0.0, 0.5]),
        frequency_penalty=st.sampled_from([0.0, 0.5]),
        repetition_penalty=st.sampled_from([1.0, 1.3]),
        seed=st.integers(0, 2**64 - 1),
    )
    token_ids = st.lists(st.integers(0, 6), min_size=1, max_size=9)
    row = st.builds(SampleRow, sampling, token_ids, st.just(1))
    rows = data.draw(st.lists(row, min_size=1, max_size=9))
    logits = _random_logits(len(rows), vocab_size, seed=data.draw(st.integers(0, 99)))
    alone = [sample(logits[i : i + 1].clone(), [row])[0] for i, row in enumerate(rows)]
    assert sample(logits.clone(), rows) == alone


def _random_logits(count: int, vocab_size: int, seed: int) -> Tensor:
    return 4 * torch.randn(count, vocab_size, generator=torch.Generator().manual_seed(seed))
