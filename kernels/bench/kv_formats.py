"""Decode attention from a KV4 and a KV8 cache: ``python -P -m qoq.kernels.bench.kv_formats``.

Microseconds over context and batch, Llama-3-8B's heads, partials and merge together. KV8 moves 1.91
times the bytes of KV4.
"""

from __future__ import annotations

import torch
import triton

from qoq.kernels.bench.attention import LLAMA_3_8B, attend, config_of, copies_of, plan_of
from qoq.kernels.bench.attention_case import AttentionCase, make_case
from qoq.kernels.bench.prefill_case import dequantized, reference
from qoq.kernels.bench.timing import time_us

CONTEXTS = (512, 1024, 2048, 4096, 8192, 16384, 32768)
BATCHES = (1, 4, 16, 64, 256)
HEAD_DIM = 128


def main() -> None:
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}")
    print("us from KV4 / from KV8, and how many times as fast KV4 is")
    print(f"{'context':>8}" + "".join(f"{'batch ' + str(batch):>24}" for batch in BATCHES))
    for context in CONTEXTS:
        print(f"{context:8}", end="")
        for batch in BATCHES:
            us = [_decode_us(context, batch, bits) for bits in (4, 8)]
            print(f"{us[0]:9.1f}/{us[1]:8.1f}{us[1] / us[0]:5.2f}x", end="", flush=True)
        print()


def _decode_us(context: int, batch: int, bits: int) -> float:
    case = make_case([context] * batch, LLAMA_3_8B, HEAD_DIM, bits=bits)
    config, plan, out = config_of(case), plan_of(case), torch.empty_like(case.q)
    _check(case, attend(case, case.cache, plan, config, out))
    copies = copies_of(case)
    return time_us(lambda i: attend(case, copies[i % len(copies)], plan, config, out), 10)


def _check(case: AttentionCase, out: torch.Tensor) -> None:
    """The last request, against float64."""
    row = len(case.context_lens) - 1
    keys, values = (kv.double() for kv in dequantized(case, row))
    position = torch.tensor([case.context_lens[row] - 1], device=out.device)
    expected = reference(case.q[row:].double(), keys, values, position, case.scale, None)
    error = float((out[row:].double() - expected).abs().max())
    assert error <= case.bound(), f"{case.fmt}: error {error:.2e} of {case.bound():.2e}"


if __name__ == "__main__":
    main()
