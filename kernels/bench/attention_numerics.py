"""What attention loses by its formats: ``python -P -m qoq.kernels.bench.attention_numerics``.

Two tables. Errors against float64 over keys and values that were never quantized, with key
channels of outliers, as they are and smoothed (SmoothAttention, QServe, arXiv 2405.04532, section
4.2). And errors and speed of one attention by the type in which products are summed and weights
are multiplied (section 5.3): the serving kernels sum in fp32 and weigh in fp16.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from qoq.kernels.bench.attention import LLAMA_3_8B
from qoq.kernels.bench.attention_case import make_case
from qoq.kernels.bench.attention_math_kernel import math_kernel
from qoq.kernels.bench.prefill_case import attend, reference
from qoq.kernels.bench.timing import time_us
from qoq.kernels.gpu.attention.partial_softmax import LOG2_E
from qoq.kernels.kv_cache import SlotMapping, store_kv

HEAD_DIM = 128
OUTLIERS = (1, 4, 8, 16)
OUTLIER_CHANNELS = (3, 40, 101)
CONTEXT, NUM_QUERIES = 4096, 256
MATHS = {
    "sums fp32, weights fp16": (tl.float32, tl.float16),
    "sums fp16, weights fp16": (tl.float16, tl.float16),
    "sums fp32, weights fp32": (tl.float32, tl.float32),
}
MATH_CONTEXTS = (1024, 8192, 32768)
MATH_HEADS, MATH_ROWS = 32, 2048


def main() -> None:
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}")
    torch.manual_seed(0)
    print_smoothing()
    print_math()


def print_smoothing() -> None:
    print(f"\nError of attention over {CONTEXT} tokens by the size of key outliers, largest (RMS)")
    print(f"{'cache':>6}{'outliers':>10}{'as they are':>22}{'smoothed':>22}")
    for bits in (4, 8):
        for size in OUTLIERS:
            plain, smoothed = (_cache_error(bits, size, smooths) for smooths in (False, True))
            print(
                f"{'KV' + str(bits):>6}{str(size) + 'x':>10}{plain.largest:12.4f} ({plain.rms:.5f})"
                f"{smoothed.largest:12.4f} ({smoothed.rms:.5f})",
                flush=True,
            )


def print_math() -> None:
    print(f"\n{MATH_ROWS} queries of {MATH_HEADS} heads, no mask: largest error (RMS), and speed")
    print(f"{'context':>8}  {'products':26}{'error':>22}{'us':>10}{'TFLOPS':>8}")
    for context in MATH_CONTEXTS:
        for name, types in MATHS.items():
            error, us = _math(context, *types)
            rate = 4 * MATH_HEADS * MATH_ROWS * context * HEAD_DIM / us / 1e6
            errors = f"{error.largest:12.2e} ({error.rms:.2e})"
            print(f"{context:8}  {name:26}{errors}{us:10.1f}{rate:8.0f}", flush=True)


class Error(NamedTuple):
    largest: float
    rms: float

    @classmethod
    def of(cls, got: Tensor, expected: Tensor) -> Error:
        difference = got.double() - expected
        return cls(float(difference.abs().max()), float(difference.square().mean().sqrt()))


def _cache_error(bits: int, outlier: int, smooths: bool) -> Error:
    """Of the last queries of a prompt, whose keys have ``outlier`` times larger channels."""
    case = make_case([CONTEXT], LLAMA_3_8B, HEAD_DIM, bits=bits)
    num_heads = case.fmt.num_kv_heads
    kv = torch.randn(CONTEXT, 2, num_heads, HEAD_DIM, device="cuda")
    kv[:, 0, :, list(OUTLIER_CHANNELS)] *= outlier
    q = torch.randn(NUM_QUERIES, case.q.shape[1], HEAD_DIM, device="cuda")
    keys, values = kv.double().permute(1, 2, 0, 3)
    position = torch.arange(CONTEXT - NUM_QUERIES, CONTEXT, device="cuda")
    expected = reference(q.double(), keys, values, position, case.scale, None)
    if smooths:
        strength = smoothing(kv[:, 0])
        kv[:, 0] /= strength
        q = q * strength.repeat_interleave(case.q.shape[1] // num_heads, dim=0)
    token = torch.arange(CONTEXT, device="cuda")
    size = case.fmt.block_size
    slots = SlotMapping(case.tables[0].long()[token // size], token % size)
    store_kv(case.cache, slots, kv, case.fmt)
    return Error.of(attend(case, q.half(), [NUM_QUERIES]), expected)


def smoothing(keys: Tensor) -> Tensor:
    """Root of the largest key ``[T, H, D]`` of each pair of channels that RoPE rotates."""
    first, second = keys.abs().amax(dim=0).chunk(2, dim=-1)
    return torch.maximum(first, second).sqrt().repeat(1, 2)


def _math(context: int, sums: tl.dtype, weights: tl.dtype) -> tuple[Error, float]:
    shapes = [(MATH_HEADS, length, HEAD_DIM) for length in (MATH_ROWS, context, context)]
    q, keys, values = (torch.randn(shape, device="cuda").half() for shape in shapes)
    out, scale = torch.empty_like(q), HEAD_DIM**-0.5

    def call(_: int) -> None:
        math_kernel[(MATH_ROWS // 128, MATH_HEADS)](
            q, keys, values, out, MATH_ROWS, context, scale * LOG2_E,
            D=HEAD_DIM, ROWS=128, TILE=64, SUMS=sums, WEIGHTS=weights, num_warps=8, num_stages=2,
        )  # fmt: skip

    call(0)
    some = slice(0, MATH_ROWS, 37)
    scores = q[:, some].double() @ keys.double().transpose(1, 2) * scale
    error = Error.of(out[:, some], scores.softmax(-1) @ values.double())
    return error, time_us(call, 5)


if __name__ == "__main__":
    main()
