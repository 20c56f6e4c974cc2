"""A request's tokens do not depend on its company, on chunks, prefix hits or preemptions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random

import pytest

from qoq.engine.config import EngineConfig
from qoq.engine.llm import LLM
from qoq.engine.protocol import SamplingParams

NUM_REQUESTS = 64


@dataclass
class Workload:
    """Requests with prompts of 1 to ``max_prompt_len`` tokens; every third begins like another."""

    model: Path
    vocab_size: int
    max_prompt_len: int
    max_tokens: int
    num_threads: int | None = None
    num_requests: int = NUM_REQUESTS

    def requests(self) -> tuple[list[list[int]], list[SamplingParams]]:
        random = Random(0)
        shared = [random.randrange(self.vocab_size) for _ in range(self.max_prompt_len)]
        prompts, sampling = [], []
        for index in range(self.num_requests):
            length = random.randint(1, self.max_prompt_len)
            own = [random.randrange(self.vocab_size) for _ in range(length)]
            kept = random.randint(0, length - 1) if index % 3 == 0 else 0
            prompts.append(shared[:kept] + own[kept:])
            sampling.append(self._sampling(index, random))
        return prompts, sampling

    def _sampling(self, index: int, random: Random) -> SamplingParams:
        """Greedy, sampled, filtered and penalized ones, and some made to repeat themselves."""
        settings: list[dict[str, float]] = [
            {"temperature": 0.0},
            {"temperature": 1.0},
            {"temperature": 1.3, "top_k": 20, "top_p": 0.9},
            {"temperature": 0.8, "min_p": 0.05},
            {"presence_penalty": 1.5, "frequency_penalty": 1.0, "repetition_penalty": 1.2},
            {"temperature": 0.7, "frequency_penalty": -2.0},
        ]
        return SamplingParams(
            max_tokens=random.randint(1, self.max_tokens),
            seed=random.getrandbits(63),
            **settings[index % len(settings)],
        )

    @contextmanager
    def llm(self, **settings: object) -> Iterator[LLM]:
        engine = LLM(EngineConfig(model=self.model, num_threads=self.num_threads, **settings))
        try:
            yield engine
        finally:
            engine.close()

    @cached_property
    def tokens_alone(self) -> list[list[int]]:
        """What every other way must give: one request at a time, nothing shared."""
        with self.llm(enable_prefix_caching=False, steps_in_flight=1) as llm:
            return [tokens(llm, [p], [s])[0] for p, s in zip(*self.requests(), strict=True)]

    def bytes_per_block(self) -> int:
        with self.llm(kv_cache_bytes=2**26) as llm:
            return 2**26 // llm.info.num_blocks


def tokens(llm: LLM, prompts: list[list[int]], sampling: list[SamplingParams]) -> list[list[int]]:
    completions = llm.generate(prompts, sampling)
    assert all(completion.finish_reason is not None for completion in completions)
    return [completion.token_ids for completion in completions]


def check_batch(load: Workload, **settings: object) -> None:
    with load.llm(enable_prefix_caching=False, **settings) as llm:
        assert tokens(llm, *load.requests()) == load.tokens_alone
        assert llm.engine.stats().num_preemptions == 0


def check_prefix_hits(load: Workload, **settings: object) -> None:
    """The second run finds the first one's blocks; both must match a run that finds none."""
    with load.llm(**settings) as llm:
        assert tokens(llm, *load.requests()) == load.tokens_alone
        hits = llm.engine.stats().prefix_cache_hits
        assert tokens(llm, *load.requests()) == load.tokens_alone
        assert llm.engine.stats().prefix_cache_hits > hits


def check_preemptions(load: Workload, num_blocks: int, **settings: object) -> None:
    """So few blocks that running requests lose theirs, and begin again with their tokens so far."""
    with load.llm(kv_cache_bytes=num_blocks * load.bytes_per_block(), **settings) as llm:
        assert llm.info.num_blocks == num_blocks
        assert tokens(llm, *load.requests()) == load.tokens_alone
        assert llm.engine.stats().num_preemptions > 0


@pytest.fixture(scope="module")
def tiny(tiny_quantized: Path) -> Workload:
    return Workload(tiny_quantized, 96, max_prompt_len=200, max_tokens=40, num_threads=1)


@pytest.fixture(scope="module")
def growing(tiny_quantized: Path) -> Workload:
    """Short prompts and long outputs: what was admitted soon needs more blocks than there are."""
    return Workload(tiny_quantized, 96, max_prompt_len=60, max_tokens=90, num_threads=1)


@pytest.fixture(scope="module")
def smollm2(smollm2_quantized: Path) -> Workload:
    return Workload(smollm2_quantized, 49152, max_prompt_len=100, max_tokens=16, num_requests=24)


def test_the_workload_makes_as_many_tokens_as_asked(tiny: Workload):
    """Nothing ends early, and the requests differ; equal nonsense would prove nothing below."""
    lengths = [len(token_ids) for token_ids in tiny.tokens_alone]
    assert lengths == [sampling.max_tokens for sampling in tiny.requests()[1]]
    assert len({tuple(token_ids[:4]) for token_ids in tiny.tokens_alone}) > NUM_REQUESTS // 2


@pytest.mark.parametrize("steps_in_flight", [1, 2])
@pytest.mark.parametrize("max_num_batched_tokens", [16, 512, 2**16])
def test_tokens_do_not_depend_on_batch_or_chunks(
    tiny: Workload, max_num_batched_tokens: int, steps_in_flight: int
):
    check_batch(
        tiny,
        max_num_batched_tokens=max_num_batched_tokens,
        steps_in_flight=steps_in_flight,
    )


@pytest.mark.parametrize("steps_in_flight", [1, 2])
def test_tokens_do_not_depend_on_prefix_hits(tiny: Workload, steps_in_flight: int):
    check_prefix_hits(tiny, steps_in_flight=steps_in_flight)


@pytest.mark.parametrize("caches", [False, True])
@pytest.mark.parametrize("steps_in_flight", [1, 2])
def test_tokens_do_not_depend_on_preemptions(growing: Workload, steps_in_flight: int, caches: bool):
    check_preemptions(
        growing, num_blocks=10, steps_in_flight=steps_in_flight, enable_prefix_caching=caches
    )


@pytest.mark.slow
def test_tokens_of_smollm2_do_not_depend_on_chunks_of_16(smollm2: Workload):
    check_batch(smollm2, max_num_batched_tokens=16)


@pytest.mark.slow
def test_tokens_of_smollm2_do_not_depend_on_prefix_hits(smollm2: Workload):
    """The first of the two runs is one batch in chunks of 512."""
    check_prefix_hits(smollm2, max_num_batched_tokens=512)


@pytest.mark.slow
def test_tokens_of_smollm2_do_not_depend_on_preemptions(smollm2: Workload):
    check_preemptions(smollm2, num_blocks=10, enable_prefix_caching=False)
