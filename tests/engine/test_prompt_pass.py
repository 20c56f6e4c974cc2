"""Embeddings against the hidden states themselves, whole and in chunks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from qoq.engine.config import EngineConfig
from qoq.engine.llm import LLM
from qoq.engine.prompt_pass import PromptPass
from qoq.engine.protocol import Pooling, SamplingParams
from qoq.kernels.quantize import quantize_activations

from .manual_steps import random_tokens

HIDDEN = torch.randn(9, 8, generator=torch.Generator().manual_seed(1))


def embed(pooling: Pooling, chunks: list[int], hidden: torch.Tensor = HIDDEN) -> list[float]:
    prompt_pass = PromptPass([0] * 9, SamplingParams(max_tokens=1, pooling=pooling))
    start = 0
    for count in chunks:
        prompt_pass.add(hidden[start : start + count], start, None, None)
        start += count
    return prompt_pass.extras().embedding


@pytest.mark.parametrize("chunks", [[9], [1] * 9, [4, 5]])
def test_pools_in_chunks_as_in_whole(chunks: list[int]):
    """Float32 against float64: the norm of 9 entries near 1 is within 9 roundings."""
    for pooling, vector in ((Pooling.MEAN, HIDDEN.double().mean(0)), (Pooling.LAST, HIDDEN[-1])):
        found = embed(pooling, chunks)
        assert found == embed(pooling, [9]), "it depends on the chunks"
        expected = (vector / vector.norm()).tolist()
        assert found == pytest.approx(expected, abs=10 * 2**-23)


@pytest.mark.parametrize("chunks", [[600], [255, 2, 343]])
def test_every_token_of_a_long_prompt_counts(chunks: list[int]):
    hidden = torch.randn(600, 8, generator=torch.Generator().manual_seed(2)) + 0.1
    mean = hidden.double().mean(0)
    expected = (mean / mean.norm()).tolist()
    assert embed(Pooling.MEAN, chunks, hidden) == pytest.approx(expected, abs=10 * 2**-23)


def test_quantized_hidden_states_count_with_their_scales():
    """An INT8 lm_head's norm hands on codes."""
    prompt_pass = PromptPass([0] * 9, SamplingParams(max_tokens=1, pooling=Pooling.MEAN))
    quantized = quantize_activations(HIDDEN * torch.arange(1, 10)[:, None])
    prompt_pass.add(quantized, 0, None, None)
    expected = (quantized.codes * quantized.scales).mean(0)
    found = prompt_pass.extras().embedding
    assert found == pytest.approx((expected / expected.norm()).tolist(), abs=10 * 2**-23)


@pytest.mark.parametrize("pooling", list(Pooling))
def test_an_embedding_does_not_depend_on_company(tiny_quantized: Path, pooling: Pooling):
    """Nor on a prefix that is cached: its tokens count."""
    shared = random_tokens(130, 96)
    prompts = [shared, shared[:70], [*shared, 5], [3]]
    sampling = SamplingParams(max_tokens=1, pooling=pooling)
    found = []
    for settings in ({}, {"max_num_batched_tokens": 16}):
        config = EngineConfig(model=tiny_quantized, kv_cache_bytes=2**25, num_threads=1, **settings)
        llm = LLM(config)
        found += [[c.embedding for c in llm.generate(prompts, sampling)] for _ in range(2)]
        found.append([llm.generate([prompt], sampling)[0].embedding for prompt in prompts])
        llm.close()
    assert all(embeddings == found[0] for embeddings in found)
    assert all(sum(x * x for x in e) == pytest.approx(1.0, abs=1e-5) for e in found[0])
    assert found[0][0] != found[0][2]
