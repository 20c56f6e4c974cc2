"""``python -P -m qoq.kernels.bench [--shapes ...] [--m ...] [--group-size ...]`` on a CUDA GPU."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch
import triton

from qoq.kernels.bench.gemm import SHAPES, Row, compare, sweep
from qoq.kernels.bench.timing import copy_bandwidth


def main() -> None:
    parser = argparse.ArgumentParser(prog="qoq.kernels.bench")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES)[:4])
    parser.add_argument("--m", type=int, nargs="+", default=[1, 16, 64, 128, 256, 512, 2048])
    parser.add_argument("--group-size", type=int, default=128, help="-1: per channel")
    parser.add_argument("--out", type=Path, help="write the rows as JSON")
    parser.add_argument("--check-only", action="store_true", help="compare, time nothing")
    args = parser.parse_args()
    if args.check_only:
        for name in args.shapes:
            for _ in sweep(*SHAPES[name], args.group_size, args.m, is_timed=False):
                pass
        print(f"{' '.join(args.shapes)}, M {args.m}: every candidate equals the definition")
        return
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}, "
        f"group size {args.group_size}, copy {copy_bandwidth():.2f} TB/s"
    )
    print(f"{'shape':12}{'M':>6}{'us':>9}{'TB/s':>7}{'TOPS':>7}{'/bf16':>7}{'/fp8':>7}{'/int8':>7}")
    rows = []
    for name in args.shapes:
        for row in compare(name, args.m, args.group_size):
            rows.append(row)
            print(_line(row), flush=True)
    if args.out:
        args.out.write_text(json.dumps([asdict(row) for row in rows], indent=1))


def _line(row: Row) -> str:
    (n, k), m, us = SHAPES[row.shape], row.best.m, row.best.us
    num_bytes = n * k * 0.53 + m * (k + 2 * n)
    ratios = [None if other is None else other / us for other in (row.fp8_us, row.int8_us)]
    cells = "".join(f"{'-':>7}" if ratio is None else f"{ratio:7.2f}" for ratio in ratios)
    return (
        f"{row.shape:12}{m:6}{us:9.1f}{num_bytes / us / 1e6:7.2f}"
        f"{2 * m * n * k / us / 1e6:7.0f}{row.bf16_us / us:7.2f}{cells}  {row.best.config}"
    )


if __name__ == "__main__":
    main()
