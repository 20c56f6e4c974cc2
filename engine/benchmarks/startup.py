"""How long an engine process takes to be ready on a checkpoint, and what memory that takes."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from qoq.engine.config import EngineConfig
from qoq.engine.process_client import ProcessClient
from qoq.engine.protocol import EngineInfo

KERNEL_CACHE = "TRITON_CACHE_DIR"


@dataclass(frozen=True, slots=True)
class Start:
    """``seconds`` by phase, ``process`` first: a Python process with its imports.

    ``read_bytes`` came from a disk rather than the page cache. ``resident_bytes`` is the most that
    the process held, ``host_kv_bytes`` of it for KV.
    """

    label: str
    info: EngineInfo
    ready_s: float
    seconds: dict[str, float]
    read_bytes: int
    resident_bytes: int

    @property
    def host_kv_bytes(self) -> int:
        return self.info.num_host_blocks * self.info.block_bytes


def measure_starts(config: EngineConfig) -> Iterator[Start]:
    """Three of them: with nothing compiled, from disk, and with the checkpoint in memory.

    Raises EngineStartError where the engine does not come up.
    """
    with _empty_kernel_cache():
        evict(config.model)
        yield measure_start(config, "first, from disk")
        evict(config.model)
        yield measure_start(config, "again, from disk")
        yield measure_start(config, "again, from memory")


def measure_start(config: EngineConfig, label: str) -> Start:
    """Raises EngineStartError where the engine does not come up."""
    return asyncio.run(_measure(config, label))


async def _measure(config: EngineConfig, label: str) -> Start:
    client = ProcessClient(config)
    started_s = time.monotonic()
    try:
        await client.start()
        ready_s = time.monotonic() - started_s
        loading = client.info.start_s
        return Start(
            label=label,
            info=client.info,
            ready_s=ready_s,
            seconds={"process": ready_s - sum(loading.values())} | loading,
            read_bytes=_read_bytes(client.pid),
            resident_bytes=_resident_bytes(client.pid),
        )
    finally:
        await client.close()


def _read_bytes(pid: int | None) -> int:
    return int(_fields(Path(f"/proc/{pid}/io"))["read_bytes"])


def _resident_bytes(pid: int | None) -> int:
    return int(_fields(Path(f"/proc/{pid}/status"))["VmHWM"].removesuffix("kB")) * 1024


def _fields(path: Path) -> dict[str, str]:
    lines = (line.partition(":") for line in path.read_text().splitlines())
    return {name: value.strip() for name, _, value in lines}


def evict(folder: Path) -> None:
    """Its files leave the page cache, but for pages that are not on the disk yet."""
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@contextmanager
def _empty_kernel_cache() -> Iterator[None]:
    """Processes that are started inside share one, which is removed at the end."""
    before = os.environ.get(KERNEL_CACHE)
    with tempfile.TemporaryDirectory(prefix="qoq-kernels-") as folder:
        os.environ[KERNEL_CACHE] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ[KERNEL_CACHE]
            else:
                os.environ[KERNEL_CACHE] = before
