"""Perplexity of a text and, beside a reference, how far the predictions are from its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from qoq.quantize.evaluation.data import DataError
from qoq.quantize.evaluation.metric import (
    ADDED_LOSS,
    AGREEMENT,
    DIVERGENCE,
    LOSS,
    PERPLEXITY,
    Metric,
)
from qoq.quantize.evaluation.passage import Passage, Predictions
from qoq.quantize.evaluation.scorer import Scorer
from qoq.quantize.evaluation.task import Subject


@dataclass(frozen=True, slots=True)
class Windows:
    """Consecutive windows of ``length`` tokens: ``count`` or all whole ones, after ``skip`` others.

    The GPTQ protocol: the text is tokenized once, what does not fill a window is dropped, and each
    window predicts all its tokens but the first.
    """

    length: int = 2048
    count: int | None = None
    skip: int = 0

    def cut(self, tokens: Sequence[int]) -> list[Passage]:
        starts = range(0, len(tokens) - self.length + 1, self.length)[self.skip :][: self.count]
        if not starts and self.skip:
            raise DataError(f"the text has no more than {self.skip} windows; skip fewer")
        if not starts:
            raise DataError(
                f"the text has {len(tokens)} tokens, not even one window of {self.length}; "
                "give a longer text or a smaller --window"
            )
        return [Passage(list(tokens[start : start + self.length])) for start in starts]

    @property
    def note(self) -> str:
        which = "all" if self.count is None else f"the first {self.count}"
        note = f"{which} windows of {self.length} tokens"
        return f"{note} after the first {self.skip}" if self.skip else note


@dataclass(frozen=True, slots=True)
class TextTask:
    """``text`` was joined already, as its protocol says."""

    name: str
    text: str
    windows: Windows

    @property
    def note(self) -> str:
        return self.windows.note

    def run(self, model: Subject, reference: Subject | None) -> list[Metric]:
        passages = self.windows.cut(model.tokenizer.encode(self.text))
        label = f"{model.label}: {self.name}"
        if reference is None:
            loss = mean_loss(model.scorer, passages, label)
            return [Metric(PERPLEXITY, math.exp(loss)), Metric(LOSS, loss)]
        found = compare(model.scorer, reference.scorer, passages, label)
        return [
            Metric(PERPLEXITY, math.exp(found.loss)),
            Metric(LOSS, found.loss),
            Metric(ADDED_LOSS, found.loss - found.reference_loss),
            Metric(DIVERGENCE, found.divergence),
            Metric(AGREEMENT, found.agreement),
        ]


def mean_loss(scorer: Scorer, passages: Sequence[Passage], label: str) -> float:
    """In nats a token."""
    scores = scorer.scores(passages, label)
    return -torch.cat([score.log_likelihoods for score in scores]).double().mean().item()


@dataclass(frozen=True, slots=True)
class Comparison:
    """Means over the targets: losses and the Kullback-Leibler divergence in nats, top-1 share."""

    loss: float
    reference_loss: float
    divergence: float
    agreement: float


def compare(
    scorer: Scorer, reference: Scorer, passages: Sequence[Passage], label: str
) -> Comparison:
    """Both models predict the same targets side by side, so that no logits are kept.

    Raises DataError where they have other vocabularies.
    """
    if scorer.info.vocab_size != reference.info.vocab_size:
        raise DataError(
            f"{scorer.info.model} has {scorer.info.vocab_size} tokens and the reference "
            f"{reference.info.vocab_size}; give the model that it was made from as --reference"
        )
    sums = torch.zeros(4, dtype=torch.float64)
    pairs = zip(scorer.predictions(passages, label), reference.predictions(passages), strict=True)
    for mine, theirs in pairs:
        sums += torch.tensor(_differences(mine, theirs), dtype=torch.float64)
    return Comparison(*(sums / sum(len(passage.targets) for passage in passages)).tolist())


def _differences(mine: Predictions, theirs: Predictions) -> tuple[float, float, float, float]:
    """Sums over the targets, in the order of ``Comparison``'s fields."""
    divergence = functional.kl_div(
        mine.logits.log_softmax(dim=-1),
        theirs.logits.log_softmax(dim=-1),
        reduction="sum",
        log_target=True,
    )
    agreed = mine.logits.argmax(dim=-1) == theirs.logits.argmax(dim=-1)
    return (
        -mine.log_likelihoods.double().sum().item(),
        -theirs.log_likelihoods.double().sum().item(),
        divergence.item(),
        float(agreed.sum()),
    )
