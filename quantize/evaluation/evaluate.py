"""Every model through every task, one model in memory at a time beside the reference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from qoq.quantize.evaluation.candidate import Candidate, short_names
from qoq.quantize.evaluation.metric import Kind, Metric
from qoq.quantize.evaluation.task import Subject, Task

SPEED = Kind("tokens/s", ".0f", "tokens that the model ran over the time that its steps took")
# For the questions, where the windows are shorter.
MIN_CACHE_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class Result:
    """What ``task`` found on the model ``label``."""

    label: str
    task: str
    metrics: list[Metric]


def evaluate(
    candidates: Sequence[Candidate],
    reference: Candidate | None,
    tasks: Sequence[Task],
    *,
    window: int,
    recipe: str | None = None,
    group_size: int | None = None,
) -> Iterator[Result]:
    """Raises ValueError or OSError where a model cannot be loaded or does not fit a task.

    All checkpoints are made and looked at before the first one is run; ``recipe`` and
    ``group_size`` are for those that are quantized on first use.
    """
    folders = [candidate.resolve(recipe, group_size) for candidate in candidates]
    names = short_names(candidate.model for candidate in candidates)
    max_tokens = max(window, MIN_CACHE_TOKENS)
    against = None
    if reference is not None:
        folder = reference.resolve(recipe, group_size)
        against = reference.load(folder, "reference", max_tokens)
    for candidate, folder in zip(candidates, folders, strict=True):
        name = names[candidate.model]
        yield from _run(tasks, candidate.load(folder, name, max_tokens), against)


def _run(tasks: Sequence[Task], model: Subject, reference: Subject | None) -> Iterator[Result]:
    for task in tasks:
        num_tokens, seconds = model.scorer.num_tokens, model.scorer.seconds
        metrics = task.run(model, reference)
        if model.scorer.num_tokens > num_tokens:
            speed = (model.scorer.num_tokens - num_tokens) / (model.scorer.seconds - seconds)
            metrics.append(Metric(SPEED, speed))
        yield Result(model.label, task.name, metrics)
