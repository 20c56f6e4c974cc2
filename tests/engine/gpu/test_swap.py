"""Blocks that leave the device and come back: the same bytes, and so the same tokens."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from qoq.engine.build import build_runner, scheduler_config
from qoq.engine.config import EngineConfig
from qoq.engine.cpu.model_runner import ModelRunner
from qoq.engine.engine import Engine
from qoq.engine.gpu import swap
from qoq.engine.gpu.swap import BlockSwapper, staging_blocks
from qoq.engine.llm import LLM, Completion
from qoq.engine.step_result import StepResult
from qoq.kernels.kv_cache import KvCache, KvFormat
from qoq.scheduler.batch import Batch, BlockCopies
from qoq.scheduler.request import Request, SamplingParams
from qoq.scheduler.scheduler import Scheduler

DELAY_CYCLES = 2_000_000  # about a millisecond
NUM_BLOCKS, NUM_HOST_BLOCKS, NUM_LAYERS = 24, 12, 3
FORMATS = [KvFormat(2, 16, 4), KvFormat(1, 64, 8), KvFormat(2, 16, None, torch.float16)]
GPU_SHAPE: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 512,
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
NEEDS_GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
DEVICES = [torch.device("cpu"), pytest.param(torch.device("cuda"), marks=NEEDS_GPU)]


def make_swapper(
    fmt: KvFormat, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> tuple[BlockSwapper, list[KvCache]]:
    """Three blocks of all layers are staged at a time."""
    monkeypatch.setattr(swap, "STAGING_BYTES", 3 * NUM_LAYERS * fmt.block_bytes)
    caches = [fmt.allocate_on(device, NUM_BLOCKS) for _ in range(NUM_LAYERS)]
    return BlockSwapper(caches, NUM_HOST_BLOCKS), caches


def write(caches: list[KvCache], block: int, value: int) -> None:
    """A block's content, another one in each layer and at its two ends."""
    for index, cache in enumerate(caches):
        words = cache.blocks.view(torch.int64)[block]
        words.fill_(value * NUM_LAYERS + index)
        words[-1] = -value


def read(caches: list[KvCache], block: int) -> int:
    """The value that was written, where the block holds all of it."""
    value = -int(caches[0].blocks.view(torch.int64)[block, -1])
    for index, cache in enumerate(caches):
        words = cache.blocks.view(torch.int64)[block].cpu()
        assert (words[:-1] == value * NUM_LAYERS + index).all() and words[-1] == -value
    return value


def random_copies(chance: Random, num_sources: int, num_targets: int) -> BlockCopies:
    count = chance.randrange(min(num_sources, num_targets) + 1)
    return BlockCopies(
        chance.choices(range(num_sources), k=count), chance.sample(range(num_targets), count)
    )


def hold_up(swapper: BlockSwapper, chance: Random) -> None:
    """Let the steps, or the copies, of a GPU come late: whoever does not wait for them is seen."""
    if chance.random() < 0.5:
        torch.cuda._sleep(DELAY_CYCLES)
    else:
        with swapper._copies.after_mark():
            torch.cuda._sleep(DELAY_CYCLES)


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("fmt", FORMATS, ids=["4 bits", "8 bits", "fp16"])
def test_blocks_arrive_whole_and_in_order(
    fmt: KvFormat, device: torch.device, monkeypatch: pytest.MonkeyPatch
):
    """Fails if a layer, a block or a chunk is mixed up, if a copy starts before what it reads is
    there, or if a step may overwrite a block that is on its way out."""
    swapper, caches = make_swapper(fmt, device, monkeypatch)
    chance, values = Random(0), iter(range(1, 10_000))
    device_values, host_values = [0] * NUM_BLOCKS, [0] * NUM_HOST_BLOCKS
    swapper.run(Batch([], [], BlockCopies([0] * NUM_HOST_BLOCKS, [*range(NUM_HOST_BLOCKS)])))
    for _ in range(60):
        if device.type == "cuda":
            hold_up(swapper, chance)
        for block in chance.sample(range(NUM_BLOCKS), 8):
            device_values[block] = next(values)
            write(caches, block, device_values[block])
        batch = Batch(
            [],
            [],
            random_copies(chance, NUM_BLOCKS, NUM_HOST_BLOCKS),
            random_copies(chance, NUM_HOST_BLOCKS, NUM_BLOCKS),
        )
        swapper.run(batch)
        for source, target in zip(batch.swap_out.sources, batch.swap_out.targets, strict=True):
            host_values[target] = device_values[source]
        for source, target in zip(batch.swap_in.sources, batch.swap_in.targets, strict=True):
            device_values[target] = host_values[source]
    assert [read(caches, block) for block in range(NUM_BLOCKS)] == device_values


def test_staging_holds_a_block_however_large():
    assert staging_blocks(num_host_blocks=100, bytes_per_block=2**40) == 1
    assert staging_blocks(num_host_blocks=100, bytes_per_block=2**21) == 32
    assert staging_blocks(num_host_blocks=5, bytes_per_block=2**21) == 5


@dataclass
class DoneStep:
    step_result: StepResult

    def result(self) -> StepResult:
        return self.step_result


class SwappingRunner:
    """The model on the CPU, whose blocks go to host memory as a GPU's would."""

    def __init__(self, runner: ModelRunner, num_host_blocks: int) -> None:
        self.grammars = runner.grammars
        self._runner = runner
        self._swapper = BlockSwapper(runner._caches, num_host_blocks)

    def submit(self, batch: Batch) -> DoneStep:
        with torch.inference_mode():
            self._swapper.run(batch)
        return DoneStep(self._runner.run(batch))

    def close(self) -> None:
        pass


def make_engine(model: Path, num_blocks: int, num_host_blocks: int, caches: bool) -> Engine:
    config = EngineConfig(model=model, num_threads=1, kv_cache_bytes=2**22, max_model_len=200)
    block_bytes = build_runner(config)[1].block_bytes
    runner, info, _ = build_runner(replace(config, kv_cache_bytes=num_blocks * block_bytes))
    limits = scheduler_config(config, info)
    limits = replace(limits, num_host_blocks=num_host_blocks, enable_prefix_caching=caches)
    return Engine(Scheduler(limits), SwappingRunner(runner, num_host_blocks), steps_in_flight=2)


def complete(
    engine: Engine, prompts: list[list[int]], sampling: list[SamplingParams]
) -> list[list[int]]:
    done = {str(index): Completion() for index in range(len(prompts))}
    for index, (prompt, params) in enumerate(zip(prompts, sampling, strict=True)):
        engine.add(Request(request_id=str(index), prompt_token_ids=prompt, sampling=params))
    while engine.has_work:
        for output in engine.step():
            done[output.request_id].add(output)
    return [completion.token_ids for completion in done.values()]


@pytest.fixture(scope="module")
def load() -> tuple[list[list[int]], list[SamplingParams]]:
    """Outputs as long as prompts, so that what was admitted soon needs more blocks."""
    chance = Random(0)
    prompts = [chance.choices(range(96), k=chance.randrange(1, 100)) for _ in range(12)]
    sampling = [SamplingParams(max_tokens=100, seed=seed) for seed in range(12)]
    return prompts, sampling


@pytest.mark.parametrize("caches", [False, True])
def test_a_request_that_was_swapped_goes_on_with_its_tokens(
    tiny_quantized: Path, load: tuple[list[list[int]], list[SamplingParams]], caches: bool
):
    """Fails if what comes back is not what left, for any of the model's layers."""
    alone = complete(make_engine(tiny_quantized, 40, 1, caches=False), *load)
    engine = make_engine(tiny_quantized, 8, 40, caches)
    assert complete(engine, *load) == alone
    stats = engine.stats()
    assert stats.num_preemptions > 0
    assert stats.num_blocks_swapped_in > 0
    assert engine.stats().num_blocks_swapped_out >= stats.num_blocks_swapped_in


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("caches", [False, True])
def test_a_gpu_goes_on_with_its_tokens_too(
    tmp_path: Path, load: tuple[list[list[int]], list[SamplingParams]], caches: bool
):
    """Fails if a copy is too late, or too early, for the steps around it."""
    (tmp_path / "config.json").write_text(json.dumps(GPU_SHAPE))
    block_bytes = KvFormat(2, 128).block_bytes * GPU_SHAPE["num_hidden_layers"]
    config = EngineConfig(
        model=tmp_path,
        load_format="dummy",
        max_model_len=256,
        max_num_seqs=16,
        max_num_batched_tokens=256,
        kv_cache_bytes=64 * block_bytes,
        host_kv_cache_bytes=0,
    )
    ample = LLM(config)
    alone = [completion.token_ids for completion in ample.generate(*load)]
    ample.close()
    config = replace(config, kv_cache_bytes=8 * block_bytes, enable_prefix_caching=caches)
    tight = LLM(replace(config, host_kv_cache_bytes=40 * block_bytes))
    for _ in range(3):
        assert [completion.token_ids for completion in tight.generate(*load)] == alone
    stats = tight.engine.stats()
    tight.close()
    assert stats.num_preemptions > 0
    assert stats.num_blocks_swapped_in > 0


def test_a_prefix_that_was_evicted_is_as_good_as_computed(tiny_quantized: Path):
    """Fails if a hit in host memory brings other KV than the prompt's."""
    chance = Random(1)
    prompts = [chance.choices(range(96), k=150) for _ in range(3)]
    sampling = [SamplingParams(max_tokens=20, seed=seed) for seed in range(3)]
    engine = make_engine(tiny_quantized, 4, 12, caches=True)
    first = complete(engine, prompts, sampling)
    assert engine.stats().num_blocks_swapped_in == 0
    assert complete(engine, prompts, sampling) == first
    assert engine.stats().num_blocks_swapped_in >= 4
