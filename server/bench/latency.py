"""``qoq bench latency``: how soon the first token comes, and each after the one before."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from qoq.server.bench import model
from qoq.server.bench.arguments import add_lengths, positive
from qoq.server.bench.each_model import each_model
from qoq.server.bench.title import title

if TYPE_CHECKING:
    from qoq.engine.benchmarks.latency import Latencies

COLUMNS = f"{'batch':>6}{'TTFT ms':>10}{'ITL p50 ms':>12}{'p99 ms':>9}{'decode':>10}{'total':>10}"
EXPLANATION = """
TTFT: from the start of all requests to a request's first token, the median; ITL: between two tokens
of a request, over all gaps; tokens/s of the batch, medians of the runs: decode after the last
request's first token, total over all the time"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    model.add_arguments(parser)
    add_lengths(parser)
    add = parser.add_argument
    add("--batch", type=positive, nargs="+", default=[1], metavar="N", help="requests at once [1]")
    add("--repeats", type=positive, default=3, metavar="N", help="runs of each batch [3]")


def run(args: argparse.Namespace) -> int:
    """0, or 1 after a sentence on standard error for each model that could not be measured."""
    from qoq.engine.benchmarks.latency import measure_latency
    from qoq.engine.benchmarks.offline_load import OfflineLoad
    from qoq.engine.benchmarks.own_process import in_own_process

    def measure(name: str) -> Latencies:
        loads = [OfflineLoad(args.input_len, args.output_len, batch) for batch in args.batch]
        config = model.engine_config(args, name)
        return in_own_process(measure_latency, config, loads, args.repeats)

    def report(result: Latencies) -> None:
        lengths = f"{args.input_len} tokens in, {args.output_len} out"
        print(result.model, title(args, result.precision, result.device, lengths), sep=": ")
        print(text(result), flush=True)

    return each_model(args, measure, report)


def text(result: Latencies) -> str:
    rows = [
        f"{row.batch:6}{row.ttft_ms:10.2f}{row.itl_p50_ms:12.3f}{row.itl_p99_ms:9.3f}"
        f"{row.rate.decode:10,.1f}{row.rate.total:10,.1f}"
        for row in result.rows
    ]
    return "\n".join([COLUMNS, *rows, EXPLANATION])
