"""Draws decoded tokens per second over the batch, a line for each context."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qoq.engine.benchmarks.sweep import Sweep


def save_plot(sweeps: Sequence[Sweep], path: Path) -> None:
    """A panel for each model."""
    # By name: whoever draws nothing needs no matplotlib, to run or to type-check.
    figure = import_module("matplotlib.figure").Figure(
        figsize=(6 * len(sweeps), 4.5), layout="constrained"
    )
    panels = figure.subplots(1, len(sweeps), squeeze=False)[0]
    for axes, sweep in zip(panels, sweeps, strict=True):
        for context, points in lines(sweep).items():
            axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=f"{context:,}")
        axes.set(title=sweep.model, xlabel="batch", ylabel="decoded tokens/s")
        axes.set_xscale("log", base=2)
        batches = sorted({cell.batch for cell in sweep.cells})
        axes.set_xticks(batches, [str(batch) for batch in batches])
        axes.set_yscale("log")
        axes.grid(alpha=0.3)
        axes.legend(title="context, tokens", fontsize="small")
    figure.savefig(path)


def lines(sweep: Sweep) -> dict[int, list[tuple[int, float]]]:
    """(batch, tokens/s) by context, of what fits."""
    found: dict[int, list[tuple[int, float]]] = {}
    for cell in sweep.cells:
        if cell.rate is not None:
            found.setdefault(cell.context, []).append((cell.batch, cell.rate))
    return found
