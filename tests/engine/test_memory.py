from pathlib import Path

import pytest

from qoq.engine.config import EngineConfig
from qoq.engine.memory import (
    OVERHEAD_BYTES,
    MemoryPlan,
    OutOfMemoryError,
    available_memory,
    plan_memory,
)

GIB = 2**30
FACTS = {
    "weight_bytes": GIB,
    "bytes_per_block": 2**20,
    "block_size": 64,
    "model_limit": 8192,
    "available_bytes": 8 * GIB,
}


def plan(facts: dict[str, int] | None = None, **settings: object) -> MemoryPlan:
    return plan_memory(EngineConfig(model=Path("m"), **settings), **FACTS | (facts or {}))


def test_the_cache_is_cut_into_blocks_and_the_model_limits_the_context():
    assert plan(kv_cache_bytes=GIB) == MemoryPlan(num_blocks=1024, max_model_len=8192)


def test_a_small_cache_shortens_the_context_unless_one_was_asked_for():
    assert plan(kv_cache_bytes=10 * 2**20).max_model_len == 640
    assert plan(kv_cache_bytes=10 * 2**20, max_model_len=640).max_model_len == 640
    with pytest.raises(OutOfMemoryError, match=f"at least {11 * 2**20}$"):
        plan(kv_cache_bytes=10 * 2**20, max_model_len=641)


def test_the_advice_is_enough():
    """The number named in the message is the smallest that works."""
    assert plan(kv_cache_bytes=11 * 2**20, max_model_len=641).max_model_len == 641
    with pytest.raises(OutOfMemoryError):
        plan(kv_cache_bytes=11 * 2**20 - 1, max_model_len=641)


def test_too_little_memory_is_told_with_its_arithmetic():
    needed = 2 * GIB + OVERHEAD_BYTES
    assert plan({"available_bytes": needed}, kv_cache_bytes=GIB).num_blocks == 1024
    with pytest.raises(OutOfMemoryError) as error:
        plan({"available_bytes": needed - GIB}, kv_cache_bytes=GIB)
    assert str(error.value) == (
        "not enough memory: weights 1.00 GiB + KV cache 1.00 GiB + overhead 0.50 GiB = 2.50 GiB, "
        "but 1.50 GiB is available; lower --kv-cache-bytes or use a smaller model"
    )


def test_a_cache_of_no_block_is_refused():
    """A context of 0 tokens would refuse every request one by one."""
    with pytest.raises(OutOfMemoryError, match=f"holds 0 tokens .* at least {128 * 2**20}$"):
        plan(kv_cache_bytes=2**20 - 1)


def test_the_model_s_own_limit_is_not_exceeded():
    with pytest.raises(ValueError, match="--max-model-len 8193 exceeds .* limit of 8192 tokens"):
        plan(max_model_len=8193)


def test_host_memory_beside_the_cpu_s_is_refused():
    assert plan(kv_cache_bytes=GIB, host_kv_cache_bytes=0).num_host_blocks == 0
    with pytest.raises(ValueError, match="--host-kv-cache-bytes: .* raise --kv-cache-bytes"):
        plan(host_kv_cache_bytes=1)


def test_available_memory_is_a_plausible_number_of_bytes():
    assert 2**26 < available_memory() < 2**50
