"""A model as it is named on the command line, ``MODEL`` or ``MODEL@PRECISION``, and its loading."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from qoq.engine.checkpoint import Checkpoint
from qoq.engine.precision import COMPARISONS, PRECISIONS
from qoq.quantize.evaluation.scorer import Scorer
from qoq.quantize.evaluation.task import Subject
from qoq.quantize.evaluation.tokenizer import EvaluationTokenizer
from qoq.quantize.resolve import default_cache_dir, resolve_model


@dataclass(frozen=True, slots=True)
class Candidate:
    """``precision`` None is the checkpoint's own, or what ``qoq serve`` would make of the model."""

    model: str
    precision: str | None

    @classmethod
    def parse(cls, text: str, precision: str | None) -> Self:
        """``precision`` is for a model that names none; a path may have an @ of its own."""
        model, _, suffix = text.rpartition("@")
        if model and suffix in PRECISIONS | COMPARISONS:
            return cls(model, suffix)
        return cls(text, precision)

    def resolve(self, recipe: str | None, group_size: int | None) -> Path:
        """The checkpoint, made if need be. Raises ValueError or OSError where it cannot be run."""
        folder = resolve_model(
            self.model,
            precision=self.precision,
            recipe=recipe,
            group_size=group_size,
            cache_dir=default_cache_dir(),
            progress=True,
        )
        Checkpoint(folder).precision_for(self.precision)
        return folder

    def load(self, folder: Path, name: str, max_tokens: int) -> Subject:
        tokenizer = EvaluationTokenizer(folder)
        scorer = Scorer.load(folder, self.precision, max_tokens, progress=True)
        return Subject(f"{name} {scorer.info.precision}", scorer, tokenizer)


def short_names(models: Iterable[str]) -> dict[str, str]:
    """The last part of each path, or all of it where two end alike."""
    names = {model: Path(model).name for model in models}
    counts = Counter(names.values())
    return {model: name if counts[name] == 1 else model for model, name in names.items()}
