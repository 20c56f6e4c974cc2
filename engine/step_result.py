"""What a step gave: tokens, and what some requests asked for beside them."""

from __future__ import annotations

from dataclasses import dataclass

from qoq.scheduler.batch import Extras


@dataclass(frozen=True, slots=True)
class StepResult:
    """One token for each scheduled request that samples, in order; ``extras`` by request id."""

    token_ids: list[int]
    extras: dict[str, Extras]
