"""``qoq bench compare``: tokens per second beside Hugging Face ``generate``, as a table."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import sys
from datetime import date
from importlib.metadata import version
from typing import TYPE_CHECKING

from qoq.server.serve_command import DEFAULT_MODEL

if TYPE_CHECKING:
    from qoq.engine.benchmarks.comparison import EngineResult
    from qoq.engine.benchmarks.rate import Rate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", default=DEFAULT_MODEL, help=f"[{DEFAULT_MODEL}]")
    parser.add_argument("--precision", default="w4a8kv4", help="[w4a8kv4]")
    parser.add_argument("--recipe", help="of quantization on first use, as for `qoq quantize`")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4, 16], help="[1 4 16]")
    parser.add_argument("--prompt-len", type=int, default=32, help="tokens [32]")
    parser.add_argument("--output-len", type=int, default=64, help="tokens [64]")
    parser.add_argument("--repeats", type=int, default=5, help="runs, the median counts [5]")


def run(args: argparse.Namespace) -> int:
    """0, or 1 after one sentence on standard error."""
    from qoq.engine.benchmarks.comparison import Workload, measure_engine, measure_hugging_face
    from qoq.engine.config import EngineConfig
    from qoq.engine.process_client import EngineStartError
    from qoq.quantize.resolve import default_cache_dir, resolve_model

    try:
        dense, quantized = (
            resolve_model(
                args.model,
                precision=precision,
                recipe=args.recipe,
                cache_dir=default_cache_dir(),
                progress=True,
            )
            for precision in ("fp32", args.precision)
        )
        workload = Workload(args.prompt_len, args.output_len, args.repeats)
        baseline = measure_hugging_face(dense, workload)
        config = EngineConfig(model=quantized)
        result = asyncio.run(measure_engine(config, workload, args.streams))
    except (ValueError, OSError, EngineStartError) as error:
        print(f"qoq bench: {error}", file=sys.stderr)
        return 1
    print(_table(args, baseline, result))
    return 0


def _table(args: argparse.Namespace, baseline: Rate, result: EngineResult) -> str:
    rows = [("Hugging Face generate, fp32, 1 stream", baseline)]
    rows += [
        (f"qoq {args.precision}, {count} stream{'s' * (count > 1)}", rate)
        for count, rate in result.rates.items()
    ]
    lines = [
        f"{args.model}, {args.prompt_len} tokens in, {args.output_len} out, {date.today()}",
        f"{_cpu_name()}, {os.cpu_count()} cores, torch {version('torch')}, "
        f"transformers {version('transformers')}, qoq {version('qoq')}",
        "",
        f"{'tokens/s, all streams together':40}{'decode':>8}{'':9}{'total':>8}",
        *(
            f"{name:40}{rate.decode:8.1f}{rate.decode / baseline.decode:7.2f}x "
            f"{rate.total:8.1f}{rate.total / baseline.total:7.2f}x"
            for name, rate in rows
        ),
        "",
        f"ready in {result.ready_s:.1f} s from the quantized checkpoint; "
        f"resident memory of the engine process {result.resident_bytes / 2**20:.0f} MiB",
        "decode: tokens after the last stream's first one over the time they took; "
        "total: all tokens over",
        f"all the time, prefill included; each the median of {args.repeats} runs",
    ]
    return "\n".join(lines)


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            names = [
                line.split(":", 1)[1].strip() for line in file if line.startswith("model name")
            ]
    except OSError:
        names = []
    return names[0] if names else platform.machine()
