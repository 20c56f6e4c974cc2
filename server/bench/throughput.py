"""``qoq bench throughput``: tokens per second with the batch that decodes fastest, as a table."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from qoq.server.bench import breakdown, model
from qoq.server.bench.arguments import add_lengths, positive, positive_or_auto
from qoq.server.bench.each_model import each_model
from qoq.server.bench.title import title

if TYPE_CHECKING:
    from qoq.engine.benchmarks.throughput import Throughput

COLUMNS = f"{'model':18}{'batch':>6}{'total':>9}{'decode':>9}{'prefill':>9}{'weights':>9}{'KV':>9}"
COLUMNS += f"{'roofline':>10}{'decode of it':>14}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    model.add_arguments(parser)
    add_lengths(parser)
    parser.add_argument(
        "--batch",
        type=positive_or_auto,
        metavar="N|auto",
        help="requests, or auto: as many as the KV cache holds, or fewer that fill the GEMMs' "
        "tiles, whichever decodes faster [auto]",
    )
    parser.add_argument(
        "--max-num-seqs",
        type=positive,
        default=1024,
        metavar="N",
        help="the largest automatic batch [1024]",
    )
    parser.add_argument(
        "--breakdown", action="store_true", help="kernels and gaps of a decode and a prefill step"
    )


def run(args: argparse.Namespace) -> int:
    """0, or 1 after a sentence on standard error for each model that could not be measured."""
    from qoq.engine.benchmarks.offline_load import OfflineLoad
    from qoq.engine.benchmarks.own_process import in_own_process
    from qoq.engine.benchmarks.throughput import measure_throughput

    def measure(name: str) -> Throughput:
        load = OfflineLoad(args.input_len, args.output_len, args.batch)
        config = model.engine_config(args, name, max_num_seqs=args.max_num_seqs)
        return in_own_process(measure_throughput, config, load, args.breakdown)

    table = Table(args)
    code = each_model(args, measure, table.add)
    table.explain()
    return code


class Table:
    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._last: Throughput | None = None

    def add(self, result: Throughput) -> None:
        if self._last is None or self._args.breakdown:
            lengths = f"{result.load.input_len} tokens in, {result.load.output_len} out"
            print(title(self._args, result.precision, result.device, lengths), COLUMNS, sep="\n")
        self._last = result
        print(_row(result), flush=True)
        for step in result.breakdowns:
            print("", breakdown.text(step), sep="\n", flush=True)

    def explain(self) -> None:
        if self._last is not None:
            print("", _explanation(self._last), sep="\n")


def _row(result: Throughput) -> str:
    rate = result.rate
    row = f"{result.model:18}{result.batch:6}{rate.total:9,.0f}{rate.decode:9,.0f}"
    row += f"{result.prefill:9,.0f}{_gib(result.weight_bytes)}{_gib(result.kv_bytes)}"
    if result.roofline is None:
        return f"{row}{'-':>10}{'-':>14}"
    return f"{row}{result.roofline:10,.0f}{rate.decode / result.roofline:14.1%}"


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:9.2f}"


def _explanation(result: Throughput) -> str:
    lines = [
        "tokens/s; weights and KV (blocks of the whole batch) in GiB; total: output tokens over",
        "all the time; decode: those after the last request's first one, over the time they took;",
        "prefill: prompt tokens over the time until the last request's first token",
    ]
    if result.ceilings is not None:
        lines += [
            "roofline: the same decode tokens over the least time of their steps, each the sum",
            "over GEMMs of max(bytes of weights / B, 2 N K batch / P) + bytes of KV read / B; here",
            f"B = {result.ceilings.bandwidth:.2f} TB/s of a copy, "
            f"P = {result.ceilings.products:.0f} INT8 or FP8 tera-operations/s of cuBLAS",
        ]
    return "\n".join(lines)
