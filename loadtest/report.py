"""Metrics as a text table, with the definitions under it, and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from qoq.loadtest.metrics import DEFINITIONS, Distribution, Metrics, Targets
from qoq.loadtest.record import Record

COLUMNS = ("mean", "p50", "p90", "p99", "max")


def as_text(metrics: Metrics, run: Mapping[str, Any], targets: Targets) -> str:
    return "\n".join(
        [
            *(f"{name:<12}{value}" for name, value in run.items()),
            *_totals(metrics, targets),
            "",
            *_table(metrics),
            "",
            *(f"{term}: {meaning}." for term, meaning in DEFINITIONS.items()),
        ]
    )


def as_json(metrics: Metrics, run: Mapping[str, Any], records: Sequence[Record]) -> str:
    report = {
        "run": dict(run),
        "metrics": asdict(metrics),
        "definitions": DEFINITIONS,
        "requests": [_row(record) for record in records],
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
    if math.isfinite(min(targets.ttft_s, targets.tpot_s)):
        limits = f"TTFT <= {_ms(targets.ttft_s)} ms, TPOT <= {_ms(targets.tpot_s)} ms"
        yield f"{'goodput':<12}{metrics.goodput:.1f} output tokens/s ({limits})"


def _table(metrics: Metrics) -> Iterator[str]:
    yield f"{'ms':<6}{'count':>9}" + "".join(f"{column:>11}" for column in COLUMNS)
    rows: dict[str, Distribution] = {
        "TTFT": metrics.ttft_s,
        "ITL": metrics.itl_s,
        "TPOT": metrics.tpot_s,
        "e2e": metrics.e2e_s,
    }
    for name, row in rows.items():
        values = (f"{_ms(getattr(row, column)):>11}" for column in COLUMNS)
        yield f"{name:<6}{row.count:>9.0f}" + "".join(values)


def _row(record: Record) -> dict[str, Any]:
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
