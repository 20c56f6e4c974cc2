"""Options -> jobs and arrivals -> records -> report."""

from __future__ import annotations

import asyncio
import random
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from qoq.loadtest.answer import BadAnswer
from qoq.loadtest.arrivals import Arrivals, all_at_once, closed_loop, from_trace, poisson, steady
from qoq.loadtest.client import Received, Target, first_model, send
from qoq.loadtest.driver import drive
from qoq.loadtest.interference import Interference
from qoq.loadtest.metrics import Targets, measure
from qoq.loadtest.options import make_parser
from qoq.loadtest.plot import save_plot
from qoq.loadtest.record import Outcome, Record
from qoq.loadtest.report import as_json, as_text
from qoq.loadtest.workload import Job, TraceRow, make_jobs, read_trace

LONG_OUTPUT_LEN = 16


def main(argv: Sequence[str] | None = None) -> int:
    args = make_parser().parse_args(argv)
    try:
        rows = trace_rows(args)
        target = find_target(args)
    except (OSError, ValueError, BadAnswer) as error:
        print(f"nothing was sent: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    arrivals = make_arrivals(args, rows)
    records, long = asyncio.run(run(args, target, jobs_of(args, rows), arrivals))
    publish(args, records, long, {"model": target.model, "arrivals": arrivals.name})
    bad = (Outcome.FAILED, Outcome.UNSENT)
    return int(any(record.outcome in bad for record in [*records, *long]))


def trace_rows(args: Namespace) -> list[TraceRow]:
    """What to send: read from a trace, or drawn; without times unless the trace has them."""
    if args.trace:
        return read_trace(args.trace, args.num_requests)
    draw = random.Random(args.seed)
    return [
        TraceRow(args.input_len(draw), args.output_len(draw), None)
        for _ in range(args.num_requests)
    ]


def find_target(args: Namespace) -> Target:
    target = Target(
        base_url=args.base_url,
        endpoint="completions" if args.token_ids_below else args.endpoint,
        api_key=args.api_key,
        timeout_s=args.timeout_s,
    )
    return replace(target, model=args.model or asyncio.run(first_model(target)))


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
    return make_jobs(lengths, args.disconnect, args.seed, args.token_ids_below)


async def run(
    args: Namespace, target: Target, jobs: Sequence[Job], arrivals: Arrivals
) -> tuple[list[Record], list[Record]]:
    """Of the jobs, and of the long prompts beside them."""
    lengths = [(args.long_prompt_len, LONG_OUTPUT_LEN)] * args.long_prompts
    long = make_jobs(lengths, 0.0, args.seed + 1, args.token_ids_below)
    received, long_received = await asyncio.gather(
        drive(partial(send, target), jobs, arrivals, args.limit_s),
        drive(
            partial(send, target),
            long,
            steady(len(long), args.long_prompt_every),
            args.limit_s,
        ),
    )
    return read(received), read(long_received)


def read(received: Sequence[Received]) -> list[Record]:
    return [one.read() for one in received]


def publish(
    args: Namespace, records: Sequence[Record], long: Sequence[Record], about: dict[str, Any]
) -> None:
    about |= {"seed": args.seed}
    targets = Targets(args.ttft_target_ms / 1000, args.tpot_target_ms / 1000)
    metrics = measure(records, targets)
    interference = Interference.of(long, records) if long else None
    print(as_text(metrics, interference, about, targets))
    if args.json:
        args.json.write_text(as_json(metrics, interference, about, records))
    if args.plot:
        save_plot(records, args.plot)


if __name__ == "__main__":
    sys.exit(main())
