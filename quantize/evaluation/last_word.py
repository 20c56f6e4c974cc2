"""LAMBADA: the last word of a passage, which the whole passage is needed to guess."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from qoq.quantize.evaluation.data import DataError, read_jsonl
from qoq.quantize.evaluation.metric import LAST_WORD_ACCURACY, LAST_WORD_PERPLEXITY, Metric
from qoq.quantize.evaluation.passage import Passage, Score
from qoq.quantize.evaluation.task import Subject


@dataclass(frozen=True, slots=True)
class LastWord:
    """``texts`` as context and last word, the space before it included."""

    name: str
    texts: list[tuple[str, str]]

    @classmethod
    def read(cls, name: str, path: Path, limit: int | None) -> Self:
        """From lines of ``{"text"}``. Raises DataError."""
        texts = []
        for number, row in enumerate(read_jsonl(path, {"text": str}, limit), start=1):
            context, space, word = row["text"].rpartition(" ")
            if not (context and word):
                raise DataError(f"{path}:{number}: expected a word after a space at the end")
            texts.append((context, space + word))
        return cls(name, texts)

    @property
    def note(self) -> str:
        return f"{len(self.texts)} passages"

    def run(self, model: Subject, reference: Subject | None) -> list[Metric]:
        passages = [model.tokenizer.encode_pair(*text) for text in self.texts]
        return summarize(passages, model.scorer.scores(passages, f"{model.label}: {self.name}"))


def summarize(passages: Sequence[Passage], scores: Sequence[Score]) -> list[Metric]:
    pairs = list(zip(passages, scores, strict=True))
    hits = sum(score.top_tokens.tolist() == passage.targets for passage, score in pairs)
    loss = -sum(score.log_likelihoods.double().sum().item() for score in scores) / len(pairs)
    return [
        Metric(LAST_WORD_ACCURACY, hits / len(pairs)),
        Metric(LAST_WORD_PERPLEXITY, math.exp(loss)),
    ]
