"""The sampler: ``python -P -m qoq.kernels.bench.sampler [--check-only]`` on a GPU.

Every batch is compared with the definition first. Logits are normal: of a standard deviation of 4,
where top-p 0.9 keeps some hundred tokens, and of 1, where it keeps more than half of all.
"""

from __future__ import annotations

import argparse

import torch
import triton
from torch import Tensor

from qoq.kernels.bench.timing import copy_bandwidth, time_us
from qoq.kernels.gpu.sampling.sample_random import random_numbers_triton
from qoq.kernels.gpu.sampling.sample_reference import check_tokens
from qoq.kernels.gpu.sampling.sampler import SamplerRows, SamplerWorkspace, sample_triton

# Name: temperature, top-k, top-p, and every how manieth row is filtered.
BATCHES = {
    "greedy": (0.0, 0, 1.0, 1),
    "temperature": (0.8, 0, 1.0, 1),
    "top-p on half": (0.8, 0, 0.9, 2),
    "top-p": (0.8, 0, 0.9, 1),
    "top-k, top-p": (0.8, 50, 0.9, 1),
}
SPREADS = (4.0, 1.0)
ROWS = (1, 16, 64, 256, 1024)
VOCAB_SIZES = (32000, 128256, 151936)
# Logits that do not stay in the L2 from one call to the next.
ROTATED_BYTES = 2**28
CHECKED_AT_ONCE = 64


def main() -> None:
    parser = argparse.ArgumentParser(prog="qoq.kernels.bench.sampler")
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--vocab-sizes", type=int, nargs="+", default=VOCAB_SIZES)
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float32")
    parser.add_argument("--check-only", action="store_true", help="compare, time nothing")
    args = parser.parse_args()
    dtype = getattr(torch, args.dtype)
    torch.manual_seed(0)
    copy = 1.0 if args.check_only else copy_bandwidth()
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}, "
        f"{args.dtype} logits, copy {copy:.2f} TB/s"
    )
    print(f"{'batch':16}{'spread':>7}{'V':>8}{'rows':>6}{'us':>9}{'/copy':>7}{'moved':>7}")
    for name in BATCHES:
        for spread in SPREADS if BATCHES[name][2] < 1 else SPREADS[:1]:
            for vocab_size in args.vocab_sizes:
                for num_rows in args.rows:
                    logits = _logits(num_rows, vocab_size, spread, dtype)
                    rows = sampler_rows(name, num_rows)
                    moved = sum(_check(batch, rows) for batch in logits)
                    cells = f"{name:16}{spread:7.0f}{vocab_size:8}{num_rows:6}"
                    if not args.check_only:
                        us = _time_us(logits, rows)
                        cells += f"{us:9.1f}{logits[0].nbytes / us / 1e6 / copy:7.2f}"
                    print(f"{cells}{moved:7}", flush=True)


def sampler_rows(name: str, num_rows: int) -> SamplerRows:
    temperature, top_k, top_p, every = BATCHES[name]
    rows = SamplerRows.over(torch.zeros(4, num_rows, dtype=torch.int64, device="cuda"))
    rows.temperature.fill_(temperature)
    rows.top_p.fill_(1.0)
    rows.top_k[::every] = top_k
    rows.top_p[::every] = top_p
    rows.seed.copy_(torch.arange(num_rows))
    rows.position.copy_(torch.arange(num_rows) * 7)
    return rows


def _logits(num_rows: int, vocab_size: int, spread: float, dtype: torch.dtype) -> list[Tensor]:
    count = max(1, min(20, ROTATED_BYTES // (num_rows * vocab_size * dtype.itemsize)))
    shape = (num_rows, vocab_size)
    return [(spread * torch.randn(shape, device="cuda")).to(dtype) for _ in range(count)]


def _check(logits: Tensor, rows: SamplerRows) -> int:
    """Of how many rows rounding decided the token."""
    tokens = sample_triton(logits, rows, *_memory(logits))
    numbers = random_numbers_triton(rows.seed, rows.position)
    moved = 0
    for first in range(0, len(logits), CHECKED_AT_ONCE):
        part = slice(first, first + CHECKED_AT_ONCE)
        some = SamplerRows(*(tensor[part] for tensor in rows))
        moved += check_tokens(logits[part], some, numbers[part], tokens[part])
    return moved


def _time_us(logits: list[Tensor], rows: SamplerRows) -> float:
    memory = _memory(logits[0])
    return time_us(lambda index: sample_triton(logits[index % len(logits)], rows, *memory))


def _memory(logits: Tensor) -> tuple[Tensor, SamplerWorkspace]:
    num_rows, vocab_size = logits.shape
    out = torch.empty(num_rows, dtype=torch.int64, device="cuda")
    return out, SamplerWorkspace.allocate(num_rows, vocab_size, logits.device)


if __name__ == "__main__":
    main()
