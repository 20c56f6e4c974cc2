"""The least time of a decode step, from what this card reaches in a copy and in a product.

``step = sum over GEMMs of max(weight bytes / bandwidth, 2 N K batch / products) + KV bytes read at
the context / bandwidth``. Activations, and everything that is neither GEMM nor attention, are free.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import dataclass

import torch

from qoq.engine.benchmarks.model_size import ModelSize, Shape
from qoq.engine.benchmarks.rate import last_first_token_s
from qoq.kernels.bench.timing import copy_bandwidth, product_tops


@dataclass(frozen=True, slots=True)
class Ceilings:
    """TB/s of a copy, and INT8 or FP8 tera-operations/s of a product of 8192 cubed."""

    bandwidth: float
    products: float


def measure_ceilings() -> Ceilings:
    """Of the current CUDA device; gives the memory back."""
    ceilings = Ceilings(copy_bandwidth(), product_tops())
    torch.cuda.empty_cache()
    return ceilings


def decode_rate(
    size: ModelSize, ceilings: Ceilings, input_len: int, streams: list[list[float]]
) -> float:
    """Tokens/s that the very steps could reach which ``Rate.decode`` counts, in which batches
    shrink and contexts grow. ``streams`` are the times of tokens, equal for those of one step.
    """
    all_decode_s = last_first_token_s(streams)
    contexts: dict[float, list[int]] = defaultdict(list)
    for stream in streams:
        for index, time_s in enumerate(stream):
            if time_s > all_decode_s:
                contexts[time_s].append(input_len + index)
    us = sum(
        decode_step_us(size, ceilings, len(step), statistics.fmean(step))
        for step in contexts.values()
    )
    return sum(map(len, contexts.values())) / us * 1e6


def decode_step_us(size: ModelSize, ceilings: Ceilings, batch: int, context: float) -> float:
    layer = sum(_gemm_us(shape, size.weight_bytes, ceilings, batch) for shape in size.layer)
    head = _gemm_us(size.head, size.head_bytes, ceilings, batch)
    attention = batch * size.kv_bytes_read(context) / ceilings.bandwidth / 1e6
    return len(size.windows) * layer + head + attention


def _gemm_us(shape: Shape, weight_bytes: float, ceilings: Ceilings, batch: int) -> float:
    n, k = shape
    memory = n * k * weight_bytes / ceilings.bandwidth
    return max(memory, 2 * n * k * batch / ceilings.products) / 1e6
