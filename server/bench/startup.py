"""``qoq bench startup``: how soon an engine is ready on a checkpoint, and what memory it takes."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from qoq.server.bench.arguments import new_file

if TYPE_CHECKING:
    from qoq.engine.benchmarks.startup import Start

EXPLANATION = """
ready: seconds from the start of the engine's process on, and where they go: process, Python and its
imports; device, a CUDA context; weights, reading and repacking; memory, what a step takes, hence
what is left for KV; graphs, the cache, kernels and CUDA graphs. First: no kernel was compiled
before; again: all were. From disk: the checkpoint was in no memory. GiB: read, from the disk;
resident, the most memory that the process had; host KV, what of it is for KV blocks"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "model",
        metavar="MODEL",
        help="a shape of configs/shapes (llama-3-8b) or a folder with a config.json, to write a "
        "checkpoint of random codes of; or a checkpoint",
    )
    add("--out", type=Path, metavar="DIR", help="write it there and keep it [a temporary folder]")
    add("--per-channel", action="store_true", help="write one scale a channel")
    add("--json", type=new_file, metavar="FILE", help="write the results there too")


def run(args: argparse.Namespace) -> int:
    """0, or 1 after one sentence on standard error."""
    from qoq.engine.benchmarks.startup import measure_starts
    from qoq.engine.config import EngineConfig
    from qoq.engine.process_client import EngineStartError
    from qoq.server.bench.each_model import write_json

    starts: list[Start] = []
    try:
        with _checkpoint(args) as folder:
            for start in measure_starts(EngineConfig(model=folder)):
                if not starts:
                    print(heading(start, _size(folder)), columns(start), sep="\n")
                print(row(start), flush=True)
                starts.append(start)
                if args.json is not None:
                    write_json(args.json, starts)
    except (ValueError, OSError, EngineStartError) as error:
        print(f"qoq bench: {error}", file=sys.stderr)
        return 1
    print(EXPLANATION)
    return 0


def heading(start: Start, size: int) -> str:
    info = start.info
    return (
        f"{info.model}: {info.precision}, a checkpoint of {size / 2**30:.2f} GiB, {info.device}, "
        f"torch {version('torch')}, qoq {version('qoq')}, {date.today()}"
    )


def columns(start: Start) -> str:
    names = ("ready", *start.seconds, "read", "resident", "host KV")
    return "".join([f"{'start':18}", *(f"{name:>9}" for name in names)])


def row(start: Start) -> str:
    seconds = (start.ready_s, *start.seconds.values())
    sizes = (start.read_bytes, start.resident_bytes, start.host_kv_bytes)
    cells = [f"{value:9.1f}" for value in seconds] + [f"{size / 2**30:9.2f}" for size in sizes]
    return "".join([f"{start.label:18}", *cells])


@contextmanager
def _checkpoint(args: argparse.Namespace) -> Iterator[Path]:
    """Written, if ``args.model`` is none."""
    model = Path(args.model)
    if any(model.glob("*.safetensors")):
        if args.out is not None or args.per_channel:
            raise ValueError(f"{model} is a checkpoint; --out and --per-channel go with a shape")
        yield model
        return
    with tempfile.TemporaryDirectory(prefix="qoq-startup-") as folder:
        out = args.out or Path(folder) / model.resolve().name
        _write(model, out, args.per_channel)
        yield out


def _write(model: Path, out: Path, per_channel: bool) -> None:
    from qoq.engine.dummy_checkpoint import PER_CHANNEL
    from qoq.server.bench.random_checkpoint import write_random_checkpoint

    started_s = time.monotonic()
    write_random_checkpoint(model, out, PER_CHANNEL if per_channel else 128)
    seconds = time.monotonic() - started_s
    print(f"wrote {_size(out) / 2**30:.2f} GiB to {out} in {seconds:.1f} s", flush=True)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
