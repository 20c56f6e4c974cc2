"""Draws the share of requests or tokens that were at least so fast. Needs the `loadtest` extra."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from itertools import accumulate
from pathlib import Path

from qoq.loadtest.metrics import gaps
from qoq.loadtest.record import Outcome, Record


def save_plot(records: Sequence[Record], path: Path) -> None:
    # By name: whoever draws nothing needs no matplotlib, to run or to type-check.
    figure = import_module("matplotlib.figure").Figure(figsize=(12, 4), layout="constrained")
    for axes, (title, pairs) in zip(figure.subplots(1, 3), _panels(records).items(), strict=True):
        values, shares = cumulative(pairs)
        axes.step([1000 * value for value in values], shares, where="post")
        axes.set(title=title, xlabel="ms", ylim=(0, 1), xlim=(0, None))
        axes.grid(alpha=0.3)
    figure.savefig(path)


def cumulative(pairs: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Sorted values, and for each the share of the weight that is not above it."""
    pairs = sorted(pairs)
    passed = list(accumulate(weight for _, weight in pairs))
    return [value for value, _ in pairs], [sum_ / passed[-1] for sum_ in passed]


def _panels(records: Sequence[Record]) -> dict[str, list[tuple[float, float]]]:
    finished = [record for record in records if record.outcome is Outcome.FINISHED]
    return {
        "TTFT, requests": [(r.ttft_s, 1) for r in finished if r.ttft_s is not None],
        "ITL, tokens": [gap for record in finished for gap in gaps(record)],
        "e2e, requests": [(record.e2e_s, 1) for record in finished],
    }
