"""Metrics as a text table, with the definitions under it, and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from qoq.loadtest.interference import Interference
from qoq.loadtest.metrics import DEFINITIONS, Distribution, Metrics, Targets
from qoq.loadtest.record import Record

COLUMNS = ("mean", "p50", "p90", "p99", "max")


def as_text(
    metrics: Metrics,
    interference: Interference | None,
    run: Mapping[str, Any],
    targets: Targets,
) -> str:
    return "\n".join(
        [
            *(f"{name:<12}{value}" for name, value in run.items()),
            *_totals(metrics, targets),
            "",
            *_table(metrics),
            *(() if interference is None else _beside(interference)),
            "",
            *(f"{term}: {meaning}." for term, meaning in DEFINITIONS.items()),
        ]
    )


def as_json(
    metrics: Metrics,
    interference: Interference | None,
    run: Mapping[str, Any],
    records: Sequence[Record],
) -> str:
    report = {
        "run": dict(run),
        "metrics": asdict(metrics),
        "long_prompts": None if interference is None else asdict(interference),
        "definitions": DEFINITIONS,
        "requests": [_json_row(record) for record in records],
    }
    return json.dumps(report, indent=1)


def _totals(metrics: Metrics, targets: Targets) -> Iterator[str]:
    counts = ", ".join(f"{n} {outcome}" for outcome, n in metrics.num_by_outcome.items())
    yield f"{'requests':<12}{metrics.num_requests}: {counts}"
    for error, num in metrics.errors.items():
        yield f"{'':<12}{num} x {error}"
    lag = f"sent at most {_ms(metrics.max_lag_s)} ms late"
    yield f"{'duration':<12}{metrics.duration_s:.2f} s; {lag}"
    yield f"{'tokens':<12}{metrics.prompt_tokens} prompt, {metrics.output_tokens} output"
    yield f"{'throughput':<12}{metrics.throughput:.1f} output tokens/s"
    if metrics.decode is not None:
        yield f"{'decode':<12}{metrics.decode:.1f} tokens/s"
    if math.isfinite(min(targets.ttft_s, targets.tpot_s)):
        limits = f"TTFT <= {_ms(targets.ttft_s)} ms, TPOT <= {_ms(targets.tpot_s)} ms"
        yield f"{'goodput':<12}{metrics.goodput:.1f} output tokens/s ({limits})"


def _table(metrics: Metrics) -> Iterator[str]:
    yield f"{'ms':<6}{'count':>9}" + "".join(f"{column:>11}" for column in COLUMNS)
    yield _row_of("TTFT", metrics.ttft_s)
    yield _row_of("ITL", metrics.itl_s)
    yield _row_of("TPOT", metrics.tpot_s)
    yield _row_of("e2e", metrics.e2e_s)


def _beside(interference: Interference) -> Iterator[str]:
    itl, num = interference.itl_s, interference.num_sent
    yield f"long prompts: {interference.num_finished} of {num} finished; while one was on its way,"
    yield f"the others' ITL had a p99 of {itl.p99 / itl.p50 if itl.p50 else 0:.2f} x the p50"
    yield _row_of("TTFT", interference.ttft_s)
    yield _row_of("ITL", itl)


def _row_of(name: str, row: Distribution) -> str:
    values = (f"{_ms(getattr(row, column)):>11}" for column in COLUMNS)
    return f"{name:<6}{row.count:>9.0f}" + "".join(values)


def _json_row(record: Record) -> dict[str, Any]:
    return {
        "index": record.index,
        "outcome": record.outcome.value,
        "error": record.error,
        "due_s": record.due_s,
        "sent_s": record.sent_s,
        "ttft_s": record.ttft_s,
        "tpot_s": record.tpot_s,
        "e2e_s": record.e2e_s,
        "prompt_tokens": record.prompt_tokens,
        "output_tokens": record.output_tokens,
    }


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f}"
