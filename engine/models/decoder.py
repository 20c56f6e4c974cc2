"""The decoder of the Llama family: what differs between models is in its config and its weights.

One definition for every device. A device brings its layers, what travels between them (``A``: plain
or quantized activations) and what they must know of a step (``S``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from qoq.kernels.kv_cache import KvCache


class Step(Protocol):
    def embed(self, table: Tensor, dtype: torch.dtype) -> Tensor:
        """Rows ``[M, hidden]`` of the step's tokens, of ``table`` ``[V, hidden]``."""


A = TypeVar("A")
S = TypeVar("S", bound=Step)
A_out = TypeVar("A_out", covariant=True)
A_in = TypeVar("A_in", contravariant=True)
S_in = TypeVar("S_in", contravariant=True)


class Norm(Protocol[A_out]):
    """Adds ``x`` (None: nothing) to the residual stream in place; what the next layer takes."""

    def __call__(self, x: Tensor | None, residual: Tensor) -> A_out: ...


class SelfAttention(Protocol[A_in, S_in]):
    """Stores the keys and values of all tokens; what it adds for tokens ``rows``, or for all."""

    def __call__(self, x: A_in, cache: KvCache, step: S_in, rows: Tensor | None) -> Tensor: ...


class Projection(Protocol[A_in]):
    """A function of each token by itself: an MLP, or ``lm_head``."""

    def __call__(self, x: A_in) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class DecoderLayer(Generic[A, S]):
    input_norm: Norm[A]
    attention: SelfAttention[A, S]
    post_attention_norm: Norm[A]
    mlp: Projection[A]

    def __call__(
        self,
        x: Tensor | None,
        residual: Tensor,
        cache: KvCache,
        step: S,
        rows: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """What the layer adds to the residual stream, and the stream, of tokens ``rows`` or of all.

        ``x`` is what the previous layer adds.
        """
        x = self.attention(self.input_norm(x, residual), cache, step, rows)
        residual = residual if rows is None else residual[rows]
        return self.mlp(self.post_attention_norm(x, residual)), residual


@dataclass(frozen=True, slots=True)
class Decoder(Generic[A, S]):
    """``embedding`` ``[V, hidden]`` in 16 or 32 bits; ``rope_table`` is ``kernels.rope``'s."""

    embedding: Tensor
    layers: list[DecoderLayer[A, S]]
    norm: Norm[A]
    lm_head: Projection[A]
    rope_table: Tensor
    dtype: torch.dtype

    def hidden_states(self, step: S, caches: list[KvCache], rows: Tensor | None) -> A:
        """Run a step; final hidden states ``[R, hidden]`` of tokens ``rows`` int64 ``[R]``, or all.

        The residual stream has ``dtype``. Of the other tokens, the last layer's keys and values are
        all that is needed.
        """
        residual = step.embed(self.embedding, self.dtype)
        x: Tensor | None = None
        for layer, cache in zip(self.layers, caches, strict=True):
            wanted = rows if layer is self.layers[-1] else None
            x, residual = layer(x, residual, cache, step, wanted)
        return self.norm(x, residual)

    def logits(self, hidden: A) -> Tensor:
        """Fp32 ``[R, V]``."""
        return self.lm_head(hidden)
