"""``qoq tune``: measure which W4A8 GEMM configuration is the fastest on this GPU, as a table."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

# Llama-3-8B, then Llama-2-70B: qkv, o, gate_up, down.
DEFAULT_SHAPES = ["6144x4096", "4096x4096", "28672x4096", "4096x14336"]
DEFAULT_SHAPES += ["10240x8192", "8192x8192", "57344x8192", "8192x28672"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--shapes", nargs="+", type=_shape, metavar="NxK", help=f"[{' '.join(DEFAULT_SHAPES)}]"
    )
    parser.add_argument("--out", type=Path, help="[sm_<arch>.json]")


def run(args: argparse.Namespace) -> int:
    """0, or 1 after one sentence on standard error."""
    import torch

    if not torch.cuda.is_available():
        print("qoq tune: no CUDA GPU is visible; tune on the GPU that serves", file=sys.stderr)
        return 1
    from qoq.kernels.bench.tune import tune, write_table

    table = tune(args.shapes or [_shape(text) for text in DEFAULT_SHAPES])
    print(f"written to {write_table(table, args.out)}; it is read from configs/gemm")
    return 0


def _shape(text: str) -> tuple[int, int]:
    n, _, k = text.partition("x")
    try:
        return int(n), int(k)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected NxK, as in 6144x4096") from None
