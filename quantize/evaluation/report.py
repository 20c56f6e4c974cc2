"""Results as tables, in text and in Markdown, and as JSON. Definitions stand under each table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qoq.quantize.evaluation.evaluate import Result
from qoq.quantize.evaluation.metric import Metric


@dataclass(slots=True)
class Report:
    """``run`` says what was asked for; ``notes`` what each task did, by its name."""

    run: Mapping[str, Any]
    notes: Mapping[str, str]
    results: list[Result] = field(default_factory=list)

    def as_text(self) -> str:
        return "\n".join(line for task in self._tasks() for line in self._text_table(task))

    def as_markdown(self) -> str:
        return "\n".join(line for task in self._tasks() for line in self._markdown_table(task))

    def as_json(self) -> str:
        content = {
            "run": dict(self.run),
            "notes": dict(self.notes),
            "definitions": {
                metric.kind.name: metric.kind.meaning
                for result in self.results
                for metric in result.metrics
            },
            "results": [
                {
                    "model": result.label,
                    "task": result.task,
                    "metrics": {metric.name: metric.value for metric in result.metrics},
                }
                for result in self.results
            ],
        }
        return json.dumps(content, indent=1) + "\n"

    def save(self, folder: Path) -> None:
        """``report.md`` and ``report.json``; written again, they hold the results up to then."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "report.md").write_text(self.as_markdown(), encoding="utf-8")
        (folder / "report.json").write_text(self.as_json(), encoding="utf-8")

    def of(self, task: str) -> list[Result]:
        return [result for result in self.results if result.task == task]

    def _tasks(self) -> Iterator[str]:
        return (task for task in self.notes if self.of(task))

    def _text_table(self, task: str) -> Iterator[str]:
        rows = _rows(self.of(task))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        yield f"{task}: {self.notes[task]}"
        for first, *rest in rows:
            cells = (f"{cell:>{width}}" for cell, width in zip(rest, widths[1:], strict=True))
            yield "  ".join([f"{first:<{widths[0]}}", *cells])
        yield from (f"{line}." for line in _definitions(self.of(task)))
        yield ""

    def _markdown_table(self, task: str) -> Iterator[str]:
        header, *rows = _rows(self.of(task))
        yield f"## {task}"
        yield ""
        for row in (header, ["---", *["---:"] * (len(header) - 1)], *rows):
            yield f"| {' | '.join(row)} |"
        yield ""
        yield f"{self.notes[task]}. " + "; ".join(_definitions(self.of(task))) + "."
        yield ""


def _rows(results: Sequence[Result]) -> list[list[str]]:
    header = ["model", *(metric.name for metric in results[0].metrics)]
    return [header, *([r.label, *(metric.text for metric in r.metrics)] for r in results)]


def _definitions(results: Sequence[Result]) -> list[str]:
    metrics: Sequence[Metric] = results[0].metrics
    meanings = {metric.kind.name: metric.kind.meaning for metric in metrics}
    return [f"{name}: {meaning}" for name, meaning in meanings.items()]
