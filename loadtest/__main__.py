"""Options -> jobs and arrivals -> records -> report."""

from __future__ import annotations

import asyncio
import random
import sys
from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from typing import Any

import httpx

from qoq.loadtest.arrivals import Arrivals, all_at_once, closed_loop, from_trace, poisson
from qoq.loadtest.client import Target, connect, first_model, send
from qoq.loadtest.driver import drive
from qoq.loadtest.metrics import Targets, measure
from qoq.loadtest.options import make_parser
from qoq.loadtest.plot import save_plot
from qoq.loadtest.record import Outcome, Record
from qoq.loadtest.report import as_json, as_text
from qoq.loadtest.workload import Job, TraceRow, make_jobs, read_trace


def main(argv: Sequence[str] | None = None) -> int:
    args = make_parser().parse_args(argv)
    try:
        rows = trace_rows(args)
        model = args.model or asyncio.run(find_model(args))
    except (OSError, ValueError, LookupError, httpx.HTTPError, httpx.InvalidURL) as error:
        print(f"nothing was sent: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    arrivals = make_arrivals(args, rows)
    records = asyncio.run(run(args, model, jobs_of(args, rows), arrivals))
    publish(args, records, {"model": model, "arrivals": arrivals.name, "seed": args.seed})
    return int(any(record.outcome in (Outcome.FAILED, Outcome.UNSENT) for record in records))


def trace_rows(args: Namespace) -> list[TraceRow]:
    """What to send: read from a trace, or drawn; without times unless the trace has them."""
    if args.trace:
        return read_trace(args.trace, args.num_requests)
    draw = random.Random(args.seed)
    return [
        TraceRow(args.input_len(draw), args.output_len(draw), None)
        for _ in range(args.num_requests)
    ]


def make_arrivals(args: Namespace, rows: Sequence[TraceRow]) -> Arrivals:
    if args.concurrency:
        return closed_loop(len(rows), args.concurrency)
    if args.rate:
        return poisson(len(rows), args.rate, args.seed)
    return from_trace(rows) if args.trace else all_at_once(len(rows))


def jobs_of(args: Namespace, rows: Sequence[TraceRow]) -> list[Job]:
    lengths = [
        (min(row.input_len, args.max_input_len), min(row.output_len, args.max_output_len))
        for row in rows
    ]
    return make_jobs(lengths, args.disconnect, args.seed)


async def find_model(args: Namespace) -> str:
    async with connect(args.api_key) as http:
        return await first_model(http, args.base_url, args.timeout_s)


async def run(args: Namespace, model: str, jobs: Sequence[Job], arrivals: Arrivals) -> list[Record]:
    target = Target(
        base_url=args.base_url, model=model, endpoint=args.endpoint, timeout_s=args.timeout_s
    )
    async with connect(args.api_key) as http:
        return await drive(partial(send, http, target), jobs, arrivals, args.limit_s)


def publish(args: Namespace, records: Sequence[Record], about: dict[str, Any]) -> None:
    targets = Targets(args.ttft_target_ms / 1000, args.tpot_target_ms / 1000)
    metrics = measure(records, targets)
    print(as_text(metrics, about, targets))
    if args.json:
        args.json.write_text(as_json(metrics, about, records))
    if args.plot:
        save_plot(records, args.plot)


if __name__ == "__main__":
    sys.exit(main())
