"""The decoder of the Llama family: what differs between models is in its config and its weights.

One definition for every device. A device brings its layers, what travels between them (``A``: plain
or quantized activations) and what they must know of a step (``S``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from qoq.kernels.kv_cache import KvCache


class Step(Protocol):
    def embed(self, table: Tensor, dtype: torch.dtype) -> Tensor:
        """Rows ``[M, hidden]`` of the step's tokens, of ``table`` ``[V, hidden]``."""


class Codes(Protocol):
    """Quantized rows: a NamedTuple of tensors with a row a token, these two among them."""

    @property
    def codes(self) -> Tensor: ...

    @property
    def scales(self) -> Tensor: ...

    def __iter__(self) -> Iterator[Tensor]: ...


A = TypeVar("A", bound=Tensor | Codes)
S = TypeVar("S", bound=Step)
A_out = TypeVar("A_out", covariant=True)
A_in = TypeVar("A_in", contravariant=True)
S_in = TypeVar("S_in", contravariant=True)


def take_rows(activations: A, rows: slice | Tensor) -> A:
    if isinstance(activations, Tensor):
        return activations[rows]  # type: ignore[return-value]
    return type(activations)(*(part[rows] for part in activations))


class Norm(Protocol[A_out]):
    """Adds ``x`` (None: nothing) to the residual stream in place; what the next layer takes."""

    def __call__(self, x: Tensor | None, residual: Tensor) -> A_out: ...


class SelfAttention(Protocol[A, S_in]):
    """Stores the keys and values of all tokens; what the heads make of them, for ``o_proj``."""

    def __call__(self, x: A, cache: KvCache, step: S_in) -> A: ...


class Projection(Protocol[A_in]):
    """A function of each token by itself: an MLP, or ``lm_head``."""

    def __call__(self, x: A_in) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class DecoderLayer(Generic[A, S]):
    """``x`` is what the layer in front adds to the residual stream; a call returns what this one
    adds.
    """

    input_norm: Norm[A]
    attention: SelfAttention[A, S]
    o_proj: Projection[A]
    post_attention_norm: Norm[A]
    mlp: Projection[A]

    def __call__(self, x: Tensor | None, residual: Tensor, cache: KvCache, step: S) -> Tensor:
        return self.finish(self.attend(x, residual, cache, step), residual)

    def attend(self, x: Tensor | None, residual: Tensor, cache: KvCache, step: S) -> A:
        return self.attention(self.input_norm(x, residual), cache, step)

    def finish(self, attended: A, residual: Tensor) -> Tensor:
        return self.mlp(self.post_attention_norm(self.o_proj(attended), residual))


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

        The residual stream has ``dtype``.
        """
        return self.finish(*self.attend(step, caches), rows)

    def attend(self, step: S, caches: list[KvCache]) -> tuple[A, Tensor]:
        """Up to the last layer's attention: all of a step that every token needs. What its heads
        made, and the residual stream.
        """
        residual = step.embed(self.embedding, self.dtype)
        x: Tensor | None = None
        for layer, cache in zip(self.layers[:-1], caches[:-1], strict=True):
            x = layer(x, residual, cache, step)
        return self.layers[-1].attend(x, residual, caches[-1], step), residual

    def finish(self, attended: A, residual: Tensor, rows: Tensor | None) -> A:
        """The rest, of tokens ``rows`` or of all."""
        if rows is not None:
            attended, residual = take_rows(attended, rows), residual[rows]
        return self.norm(self.layers[-1].finish(attended, residual), residual)

    def logits(self, hidden: A) -> Tensor:
        """Fp32 ``[R, V]``."""
        return self.lm_head(hidden)
