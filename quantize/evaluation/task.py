"""The seam between what is evaluated and what is measured on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from qoq.quantize.evaluation.metric import Metric
from qoq.quantize.evaluation.scorer import Scorer
from qoq.quantize.evaluation.tokenizer import EvaluationTokenizer


@dataclass(frozen=True, slots=True)
class Subject:
    """A loaded model under the name it has in the report."""

    label: str
    scorer: Scorer
    tokenizer: EvaluationTokenizer


class Task(Protocol):
    """Its data is read when it is made, so that nothing is loaded where data is missing."""

    @property
    def name(self) -> str: ...

    @property
    def note(self) -> str:
        """What was run, for under the table."""
        ...

    def run(self, model: Subject, reference: Subject | None) -> list[Metric]:
        """The first metric, and others of its kind, are what the plot shows."""
        ...
