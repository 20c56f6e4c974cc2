"""One row of a step's logits: whose it is, and which of its tokens comes of it."""

from __future__ import annotations

from dataclasses import dataclass

from qoq.engine.request_state import RequestState


@dataclass(frozen=True, slots=True)
class SampledRow:
    """The request in ``slot`` samples its token at ``position``."""

    state: RequestState
    slot: int
    position: int
