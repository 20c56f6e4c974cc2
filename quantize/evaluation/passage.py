"""What is predicted, and the predictions."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Passage:
    """``tokens``, of which those from ``first`` (1 or later) on are predicted."""

    tokens: list[int]
    first: int = 1

    @property
    def targets(self) -> list[int]:
        return self.tokens[self.first :]


@dataclass(frozen=True, slots=True)
class Predictions:
    """Fp32 ``logits`` ``[R, V]`` where passage ``index`` has tokens ``targets`` int64 ``[R]``."""

    index: int
    targets: Tensor
    logits: Tensor

    @property
    def log_likelihoods(self) -> Tensor:
        """Fp32 ``[R]``, in nats."""
        return self.logits.gather(1, self.targets[:, None])[:, 0] - self.logits.logsumexp(dim=-1)


@dataclass(frozen=True, slots=True)
class Score:
    """Of a passage's ``R`` targets: fp32 ``log_likelihoods`` and the likeliest ``top_tokens``."""

    log_likelihoods: Tensor
    top_tokens: Tensor
