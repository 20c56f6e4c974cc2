"""Does quantization make a model more fragile? The same text clean and with careless writing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from qoq.quantize.evaluation.metric import ADDED_LOSS, AGREEMENT, LOSS, Metric
from qoq.quantize.evaluation.noise import NOISES, RATE
from qoq.quantize.evaluation.task import Subject
from qoq.quantize.evaluation.text_task import Windows, compare, mean_loss


@dataclass(frozen=True, slots=True)
class Robustness:
    """With a reference, agreement and loss above it; without one, the loss under each noise."""

    text: str
    windows: Windows
    seed: int
    name: str = "robustness"

    @property
    def note(self) -> str:
        return f"{self.windows.note} under each noise, {RATE:.0%} of words, seed {self.seed}"

    def run(self, model: Subject, reference: Subject | None) -> list[Metric]:
        measured = [
            self._measure(condition, text, model, reference) for condition, text in self._texts()
        ]
        return [metric for kinds in zip(*measured, strict=True) for metric in kinds]

    def _texts(self) -> Iterator[tuple[str, str]]:
        yield "clean", self.text
        for name, noise in NOISES.items():
            yield name, noise(self.text, Random(self.seed))

    def _measure(
        self, condition: str, text: str, model: Subject, reference: Subject | None
    ) -> list[Metric]:
        passages = self.windows.cut(model.tokenizer.encode(text))
        label = f"{model.label}: {condition}"
        if reference is None:
            return [Metric(LOSS, mean_loss(model.scorer, passages, label), condition)]
        found = compare(model.scorer, reference.scorer, passages, label)
        return [
            Metric(AGREEMENT, found.agreement, condition),
            Metric(LOSS, found.loss, condition),
            Metric(ADDED_LOSS, found.loss - found.reference_loss, condition),
        ]
