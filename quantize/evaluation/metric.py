"""What is measured: a number, how it is written and what it means."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kind:
    """``format`` is a format specification; ``meaning`` one clause for under the table."""

    name: str
    format: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Metric:
    """``condition`` tells metrics of one kind apart, as in "typos loss"."""

    kind: Kind
    value: float
    condition: str = ""

    @property
    def name(self) -> str:
        return f"{self.condition} {self.kind.name}".strip()

    @property
    def text(self) -> str:
        return format(self.value, self.kind.format)


LOSS = Kind("loss", ".4f", "mean negative log-likelihood of a token, in nats")
ADDED_LOSS = Kind("added loss", "+.4f", "loss above that of the reference on the same tokens")
PERPLEXITY = Kind("perplexity", ".3f", "exp of the loss")
DIVERGENCE = Kind("KL", ".4f", "mean divergence of the reference's next-token distribution, nats")
AGREEMENT = Kind("top-1", ".1%", "share of tokens where model and reference rank the same first")
ACCURACY = Kind("acc", ".1%", "the right choice has the highest log-likelihood")
NORMALIZED_ACCURACY = Kind(
    "acc_norm", ".1%", "the same with log-likelihoods divided by UTF-8 bytes"
)
LAST_WORD_ACCURACY = Kind("acc", ".1%", "every token of the last word is the likeliest one")
LAST_WORD_PERPLEXITY = Kind("perplexity", ".3f", "exp of the mean loss of a whole last word")
