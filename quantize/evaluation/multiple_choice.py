"""Accuracy where a model chooses among answers by their log-likelihood after the question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Self

from qoq.quantize.evaluation.data import DataError, read_jsonl
from qoq.quantize.evaluation.metric import ACCURACY, NORMALIZED_ACCURACY, Metric
from qoq.quantize.evaluation.task import Subject

# How a question is put; an answer follows after a space.
PROMPTS = {
    "piqa": "Question: {}\nAnswer:",
    "arc_easy": "Question: {}\nAnswer:",
    "social_iqa": "Q: {}\nA:",
}


@dataclass(frozen=True, slots=True)
class Question:
    query: str
    choices: list[str]
    gold: int


@dataclass(frozen=True, slots=True)
class MultipleChoice:
    name: str
    prompt: str
    questions: list[Question]

    @classmethod
    def read(cls, name: str, path: Path, limit: int | None) -> Self:
        """From lines of ``{"query", "choices", "gold"}``. Raises DataError."""
        rows = read_jsonl(path, {"query": str, "choices": list, "gold": int}, limit)
        for number, row in enumerate(rows, start=1):
            if not 0 <= row["gold"] < len(row["choices"]):
                raise DataError(f"{path}:{number}: gold {row['gold']} is not one of the choices")
        questions = [Question(row["query"], row["choices"], row["gold"]) for row in rows]
        return cls(name, PROMPTS[name], questions)

    @property
    def note(self) -> str:
        return f"{len(self.questions)} questions, asked as {self.prompt.format('...')!r}"

    def run(self, model: Subject, reference: Subject | None) -> list[Metric]:
        pairs = [
            (self.prompt.format(question.query), f" {choice}")
            for question in self.questions
            for choice in question.choices
        ]
        passages = [model.tokenizer.encode_pair(*pair) for pair in pairs]
        scores = model.scorer.scores(passages, f"{model.label}: {self.name}")
        sums = [score.log_likelihoods.double().sum().item() for score in scores]
        return accuracies(self.questions, sums)


def accuracies(questions: Sequence[Question], log_likelihoods: Sequence[float]) -> list[Metric]:
    """From the log-likelihoods of all choices, question by question; the first of equals wins."""
    ends = list(accumulate(len(question.choices) for question in questions))
    plain = normalized = 0
    for question, end in zip(questions, ends, strict=True):
        values = log_likelihoods[end - len(question.choices) : end]
        sizes = [max(len(choice.encode()), 1) for choice in question.choices]
        plain += _best(values) == question.gold
        normalized += _best([v / n for v, n in zip(values, sizes, strict=True)]) == question.gold
    count = len(questions)
    return [Metric(ACCURACY, plain / count), Metric(NORMALIZED_ACCURACY, normalized / count)]


def _best(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)
