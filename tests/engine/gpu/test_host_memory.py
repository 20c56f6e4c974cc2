"""How many blocks host memory holds, and the sentences for when it does not."""

from pathlib import Path

import pytest

from qoq.engine.config import EngineConfig
from qoq.engine.gpu.host_memory import HOST_KV_CACHE_BYTES, plan_host_blocks
from qoq.engine.memory import OutOfMemoryError

GIB = 2**30


def plan(available_bytes: int, **settings: int) -> int:
    config = EngineConfig(model=Path("m"), **settings)
    return plan_host_blocks(config, available_bytes=available_bytes, bytes_per_block=3 * 2**20)


def test_takes_4_gib_or_a_quarter_of_what_is_available():
    assert plan(64 * GIB) == HOST_KV_CACHE_BYTES // (3 * 2**20) == 1365
    assert plan(GIB) == 85
    assert plan(0) == 0


def test_takes_what_was_asked_for():
    assert plan(GIB, host_kv_cache_bytes=GIB) == 341
    assert plan(GIB, host_kv_cache_bytes=3 * 2**20) == 1
    assert plan(GIB, host_kv_cache_bytes=0) == 0


def test_more_than_there_is_is_refused_with_the_numbers():
    with pytest.raises(OutOfMemoryError) as error:
        plan(GIB, host_kv_cache_bytes=GIB + 1)
    assert str(error.value) == (
        "--host-kv-cache-bytes 1.00 GiB does not fit: 1.00 GiB of host memory is available; lower "
        "it, or set it to 0 for none"
    )


def test_less_than_a_block_is_refused():
    """It would silently be none."""
    with pytest.raises(OutOfMemoryError, match="3145727 holds no block of 3145728 bytes; raise"):
        plan(GIB, host_kv_cache_bytes=3 * 2**20 - 1)
