"""Draws the first kind of metric of each task, a bar for each model. Needs the `eval` extra."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from qoq.quantize.evaluation.metric import Metric
from qoq.quantize.evaluation.report import Report


def can_plot() -> bool:
    return find_spec("matplotlib") is not None


def save_plot(report: Report, path: Path) -> None:
    """A panel a task; conditions, such as the noises, are bars beside each other."""
    tasks = [task for task in report.notes if report.of(task)]
    # By name: whoever draws nothing needs no matplotlib, to run or to type-check.
    figure = import_module("matplotlib.figure").Figure(
        figsize=(12, 1 + 3 * len(tasks)), layout="constrained"
    )
    panels = figure.subplots(len(tasks), 1, squeeze=False)[:, 0]
    for axes, task in zip(panels, tasks, strict=True):
        _draw(axes, report, task)
    figure.savefig(path)


def _draw(axes: Any, report: Report, task: str) -> None:
    rows = {result.label: _headline(result.metrics) for result in report.of(task)}
    conditions = [metric.condition for metric in next(iter(rows.values()))]
    height = 0.8 / len(conditions)
    for offset, condition in enumerate(conditions):
        places = [index + offset * height for index in range(len(rows))]
        values = [metrics[offset].value for metrics in rows.values()]
        bars = axes.barh(places, values, height, label=condition or None)
        axes.bar_label(bars, [metrics[offset].text for metrics in rows.values()], padding=3)
    kind = next(iter(rows.values()))[0].kind
    axes.set(title=task, xlabel=f"{kind.name}: {kind.meaning}")
    axes.set_yticks([index + 0.4 - height / 2 for index in range(len(rows))], list(rows))
    axes.invert_yaxis()
    axes.margins(x=0.1)
    if len(conditions) > 1:
        axes.legend()


def _headline(metrics: list[Metric]) -> list[Metric]:
    return [metric for metric in metrics if metric.kind == metrics[0].kind]
