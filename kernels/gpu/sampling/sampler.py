"""Logits to token ids on a GPU: temperature, top-k, top-p, min-p, one draw a row.

``engine/sampler.py`` is the definition, and a row's token is its token unless rounding decides: a
draw within 2^-20 of the row's mass from the border between two tokens, a mass as near to top-p, a
weight as near to min-p. As there, logits tie where their fp32 distances from the largest one do;
here also within a step of 2^-24.

One launch of a fixed grid, nothing is read by the host. Programs read all logits once; the one of
a row that ends last chooses the row's token, while other rows are still read. It reads one span of
64 tokens again where the row is greedy or drawn from all tokens. Where it is filtered, it reads the
spans that probably hold all kept tokens, once where they do and those are at most 2048; else all
spans that may hold some, in some more passes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from qoq.kernels.gpu.sampling import sample_choice, sample_kernel
from qoq.kernels.gpu.sampling.logit_checks import check_logits, check_vector
from qoq.kernels.gpu.sampling.sample_candidates import CANDIDATES
from qoq.kernels.gpu.sampling.sample_kernel import sampler_kernel
from qoq.kernels.gpu.sampling.sample_summary import SPAN
from qoq.kernels.gpu.sampling.sample_weights import MAX_VOCAB
from qoq.kernels.gpu.sizes import cdiv, next_power_of_2


class SamplerRows(NamedTuple):
    """How each row is sampled, ``[R]`` on the device.

    ``temperature`` fp32, 0 for greedy, and else 2^-20 at least; ``top_k`` int32, 0 for off;
    ``top_p`` fp32, 1 for off; ``min_p`` fp32, 0 for off; ``seed`` (its low 64 bits) and
    ``position``, int64, key the row's random number.
    """

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    seed: Tensor
    position: Tensor

    @classmethod
    def over(cls, memory: Tensor) -> SamplerRows:
        """Views of contiguous int64 ``[4, R]``: filled on the host, rows cross in one copy."""
        num_rows = memory.shape[1]
        floats, integers = memory[2:].view(torch.float32), memory[2:].view(torch.int32)
        return cls(
            temperature=floats[0, :num_rows],
            top_k=integers[0, num_rows:],
            top_p=floats[1, :num_rows],
            min_p=floats[1, num_rows:],
            seed=memory[0],
            position=memory[1],
        )


class SamplerWorkspace(NamedTuple):
    """What the programs of a row share, for batches of up to ``tops.shape[0]`` rows.

    ``tops`` and ``sums`` fp32 and ``spans`` int32 ``[R, num_spans]``; ``candidates`` int64
    ``[R, max(2048, num_spans)]``; ``arrivals`` int32 ``[R]``, zeros between launches.
    """

    tops: Tensor
    sums: Tensor
    spans: Tensor
    candidates: Tensor
    arrivals: Tensor

    @classmethod
    def allocate(cls, max_rows: int, vocab_size: int, device: torch.device) -> SamplerWorkspace:
        shape = (max_rows, cdiv(vocab_size, SPAN))
        return cls(
            torch.empty(shape, device=device),
            torch.empty(shape, device=device),
            torch.empty(shape, dtype=torch.int32, device=device),
            torch.empty(max_rows, max(CANDIDATES, shape[1]), dtype=torch.int64, device=device),
            torch.zeros(max_rows, dtype=torch.int32, device=device),
        )


def sample_triton(
    logits: Tensor, rows: SamplerRows, out: Tensor, workspace: SamplerWorkspace
) -> Tensor:
    """One token id for each row of ``logits`` ``[R, V]`` into ``out`` int64 ``[R]``.

    ``logits`` are fp32, fp16 or bf16, their rows contiguous; they stay as they are. NaN counts as
    -inf, and a row of nothing else gives token 0.

    Raises:
        ValueError: a shape or dtype does not match; the message names the tensor.
    """
    _check(logits, rows, out, workspace)
    num_rows, vocab_size = logits.shape
    num_spans = workspace.tops.shape[1]
    if num_rows:
        sampler_kernel[(cdiv(num_spans, sample_kernel.TILE), num_rows)](
            logits,
            *rows,
            *workspace,
            out,
            vocab_size,
            num_spans,
            logits.stride(0),
            SPAN=SPAN,
            TILE=sample_kernel.TILE,
            SPANS=sample_choice.SPANS,
            CANDIDATES=CANDIDATES,
            BLOCK=next_power_of_2(num_spans),
            num_warps=sample_kernel.NUM_WARPS,
            maxnreg=sample_kernel.MAX_REGISTERS,
            enable_fp_fusion=False,
        )
    return out


def _check(logits: Tensor, rows: SamplerRows, out: Tensor, workspace: SamplerWorkspace) -> None:
    check_logits(logits, MAX_VOCAB)
    num_rows, vocab_size = logits.shape
    num_spans = cdiv(vocab_size, SPAN)
    if workspace.tops.shape[0] < num_rows or workspace.tops.shape[1] != num_spans:
        raise ValueError(
            f"workspace: expected {num_rows} rows or more of {num_spans} spans, "
            f"got {list(workspace.tops.shape)}"
        )
    expected = SamplerRows.over(torch.empty(4, 0, dtype=torch.int64))
    for name, tensor, like in zip(SamplerRows._fields, rows, expected, strict=True):
        check_vector(f"rows.{name}", tensor, num_rows, like.dtype)
    check_vector("out", out, num_rows, torch.int64)
