"""Bytes in, blocks out, and one sentence with the numbers where they are too few."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from qoq.engine.config import EngineConfig
from qoq.engine.dummy_checkpoint import read_shape, shape_folder
from qoq.engine.gpu.memory import explain_out_of_memory, plan_gpu_memory
from qoq.engine.memory import MemoryPlan, OutOfMemoryError

GIB = 2**30
FACTS = {
    "total_bytes": 80 * GIB,
    "free_bytes": 75 * GIB,
    "step_bytes": GIB // 2,
    "buffer_bytes": GIB // 2,
    "bytes_per_block": 2**21,
    "block_size": 64,
    "model_limit": 8192,
}
RESERVE = int(80 * GIB * (1 - 0.96))
LEFT = 74 * GIB - RESERVE


def plan(facts: dict[str, int] | None = None, **settings: object) -> MemoryPlan:
    return plan_gpu_memory(EngineConfig(model=Path("m"), **settings), **FACTS | (facts or {}))


def test_the_cache_gets_what_is_left():
    assert plan() == MemoryPlan(LEFT // 2**21, 8192)


def test_the_cache_gets_what_was_asked_for():
    assert plan(kv_cache_bytes=10 * 2**21) == MemoryPlan(10, 640)
    assert plan(kv_cache_bytes=LEFT).num_blocks == LEFT // 2**21


def test_the_gpu_gets_as_full_as_was_asked_for():
    assert plan(gpu_memory_utilization=0.5).num_blocks == (74 - 40) * GIB // 2**21
    assert plan(gpu_memory_utilization=1).num_blocks == 74 * GIB // 2**21


@pytest.mark.parametrize("share", [0, -0.5, 1.01, float("nan")])
def test_a_share_that_cannot_be_is_refused_by_name(share: float):
    with pytest.raises(ValueError, match="gpu_memory_utilization: expected more than 0 and at mos"):
        EngineConfig(model=Path("m"), gpu_memory_utilization=share)


def test_more_than_is_left_is_refused_with_the_arithmetic():
    with pytest.raises(OutOfMemoryError) as error:
        plan(kv_cache_bytes=LEFT + 1)
    assert str(error.value) == (
        "--kv-cache-bytes 70.80 GiB does not fit: 80.00 GiB of the GPU - 5.00 GiB weights and "
        "others' - 0.50 GiB a step of 2048 tokens - 0.50 GiB buffers and graphs - 3.20 GiB reserve "
        "= 70.80 GiB for the KV cache; lower it or leave it out"
    )


def test_a_context_longer_than_the_cache_is_refused_with_what_would_be_enough():
    with pytest.raises(OutOfMemoryError) as error:
        plan(kv_cache_bytes=10 * 2**21, max_model_len=641)
    assert str(error.value) == (
        "--kv-cache-bytes 0.02 GiB holds 640 tokens at 2097152 bytes a block of 64, fewer than "
        f"641; raise it to at least {11 * 2**21}, or lower --max-model-len"
    )
    assert plan(kv_cache_bytes=11 * 2**21, max_model_len=641).max_model_len == 641


@pytest.mark.parametrize("settings", [{}, {"max_model_len": 512}])
def test_a_model_that_leaves_no_room_is_refused_with_the_arithmetic(settings: dict[str, int]):
    with pytest.raises(OutOfMemoryError) as error:
        plan({"free_bytes": 4 * GIB}, **settings)
    message = str(error.value)
    assert message.startswith("not enough memory: 80.00 GiB of the GPU - 76.00 GiB weights and ")
    assert "= -0.20 GiB for the KV cache, 0 tokens" in message
    assert message.endswith(
        "lower --max-model-len, --max-num-seqs or --max-num-batched-tokens, or use a larger GPU"
    )


def test_a_small_cache_shortens_the_context_unless_one_was_asked_for():
    facts = {"free_bytes": 75 * GIB - LEFT + 10 * 2**21}
    assert plan(facts) == MemoryPlan(10, 640)
    assert plan(facts, max_model_len=640) == MemoryPlan(10, 640)
    with pytest.raises(OutOfMemoryError, match="640 tokens at .* lower --max-model-len"):
        plan(facts, max_model_len=641)


def test_the_model_s_own_limit_is_not_exceeded():
    with pytest.raises(ValueError, match="--max-model-len 8193 exceeds .* limit of 8192 tokens"):
        plan(max_model_len=8193)


def test_torch_s_own_error_becomes_a_sentence(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (GIB, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 78 * GIB)
    with (
        pytest.raises(OutOfMemoryError) as error,
        explain_out_of_memory("the weights", "use a smaller model"),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\nand more lines")
    assert str(error.value) == (
        "not enough memory for the weights: of 80.00 GiB of the GPU, the engine holds 78.00 GiB "
        "already and 1.00 GiB is free; use a smaller model"
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.usefixtures("returns_memory")
@pytest.mark.parametrize("max_num_seqs", [256, 1024])
def test_the_arithmetic_leaves_most_of_the_reserve(max_num_seqs: int):
    """With graphs captured and a largest step run, beside a cache of all that was left."""
    from qoq.engine.gpu.build import build_gpu_runner

    shape = read_shape(Path("llama-3-8b")) | {"num_hidden_layers": 4}
    with shape_folder("llama", shape, 32768) as model:
        config = EngineConfig(model=model, load_format="dummy", max_num_seqs=max_num_seqs)
        runner, _ = build_gpu_runner(config)
        runner.run_largest_prefill(config.step_tokens(is_gpu=True))
        torch.cuda.synchronize()
        free_bytes, total_bytes = torch.cuda.mem_get_info()
    runner.close()
    assert free_bytes > total_bytes * (1 - config.gpu_memory_utilization) / 2
