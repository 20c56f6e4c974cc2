from __future__ import annotations

import os
from pathlib import Path

import pytest

from qoq.engine.benchmarks import startup
from qoq.engine.benchmarks.startup import KERNEL_CACHE, measure_start, measure_starts
from qoq.engine.config import EngineConfig

from .shapes import on_cpu


def test_a_start_is_its_phases_and_nothing_else(shape: Path):
    start = measure_start(on_cpu(shape), "again")
    assert list(start.seconds) == ["process", "memory", "weights"]
    assert sum(start.seconds.values()) == pytest.approx(start.ready_s)
    assert 0 < start.seconds["weights"] < start.seconds["process"], "torch is imported there"
    assert 2**26 < start.resident_bytes < 2**32
    assert start.read_bytes >= 0 == start.host_kv_bytes


@pytest.mark.parametrize("before", [None, "/kernels"])
def test_nothing_is_compiled_before_the_first_start(
    monkeypatch: pytest.MonkeyPatch, shape: Path, before: str | None
):
    """The others find what it compiled; the last one also the checkpoint in memory."""
    monkeypatch.delenv(KERNEL_CACHE, raising=False)
    if before is not None:
        monkeypatch.setenv(KERNEL_CACHE, before)
    events, compiled = [], []

    def start(config: EngineConfig, label: str) -> str:
        kernels = Path(os.environ[KERNEL_CACHE])
        compiled.append(list(kernels.iterdir()))
        (kernels / "kernel").touch()
        events.append(label)
        return label

    monkeypatch.setattr(startup, "measure_start", start)
    monkeypatch.setattr(startup, "evict", lambda folder: events.append(folder.name))
    assert len(list(measure_starts(EngineConfig(model=shape)))) == 3
    assert [len(kernels) for kernels in compiled] == [0, 1, 1]
    assert events == [
        *("tiny", "first, from disk"),
        *("tiny", "again, from disk"),
        "again, from memory",
    ]
    assert os.environ.get(KERNEL_CACHE) == before
    assert not compiled[1][0].parent.exists()
