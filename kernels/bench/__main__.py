"""``python -P -m qoq.kernels.bench [--shapes ...] [--m ...] [--group-size ...]`` on a CUDA GPU.

``--ablate`` takes the ideas of the portable kernel away one at a time.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch
import triton

from qoq.kernels.bench.ablation import Times, ablate
from qoq.kernels.bench.gemm import SHAPES, Row, compare, sweep
from qoq.kernels.bench.peer import Peer, load_peer
from qoq.kernels.bench.timing import copy_bandwidth, product_tops
from qoq.kernels.gpu.gemm.w4a8_weight import STEP


def main() -> None:
    parser = argparse.ArgumentParser(prog="qoq.kernels.bench")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES)[:4])
    parser.add_argument("--m", type=int, nargs="+", default=[1, 16, 64, 128, 256, 512, 2048])
    parser.add_argument("--group-size", type=int, default=128, help="-1: per channel")
    parser.add_argument("--out", type=Path, help="write the rows as JSON")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--check-only", action="store_true", help="compare, time nothing")
    mode.add_argument("--ablate", action="store_true", help="the portable kernel, idea by idea")
    parser.add_argument(
        "--peer",
        type=_peer,
        metavar="MODULE:FUNCTION",
        help="another package's GEMM to time beside ours; see qoq.kernels.bench.peer",
    )
    args = parser.parse_args()
    if args.ablate and args.group_size != STEP:
        parser.error(f"--ablate is for --group-size {STEP}")
    if args.check_only:
        _check(args.shapes, args.m, args.group_size)
        return
    copy, tops = copy_bandwidth(), product_tops()
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}, "
        f"group size {args.group_size}, copy {copy:.2f} TB/s, products {tops:.0f} TOPS"
    )
    rows = _ablate(args.shapes, args.m) if args.ablate else _compare(args, copy, tops)
    if args.out:
        args.out.write_text(json.dumps(rows, indent=1))


def _peer(name: str) -> Peer:
    try:
        return load_peer(name)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _check(shapes: list[str], ms: list[int], group_size: int) -> None:
    for name in shapes:
        for _ in sweep(*SHAPES[name], group_size, ms, is_timed=False):
            pass
    print(f"{' '.join(shapes)}, M {ms}: every candidate equals the definition")


def _compare(args: argparse.Namespace, copy: float, tops: float) -> list[dict[str, object]]:
    """``share`` is of the ceiling that is nearer: copying, or products."""
    names = ("us", "TB/s", "TOPS", "share", "/bf16", "/fp8", "/int8", "/peer")
    print(f"{'shape':12}{'M':>6}" + "".join(f"{name:>8}" for name in names))
    rows = []
    for name in args.shapes:
        for row in compare(name, args.m, args.group_size, args.peer):
            rows.append(asdict(row))
            print(_line(row, copy, tops), flush=True)
    return rows


def _line(row: Row, copy: float, tops: float) -> str:
    (n, k), m, us = SHAPES[row.shape], row.best.m, row.best.us
    moved = (n * k * 0.53 + m * (k + 2 * n)) / us / 1e6
    multiplied = 2 * m * n * k / us / 1e6
    share = max(moved / copy, multiplied / tops)
    others = (row.bf16_us, row.fp8_us, row.int8_us, row.peer_us)
    cells = "".join(f"{'-':>8}" if other is None else f"{other / us:8.2f}" for other in others)
    return (
        f"{row.shape:12}{m:6}{us:8.1f}{moved:8.2f}{multiplied:8.0f}{share:8.2f}{cells}"
        f"  {row.best.config}"
    )


def _ablate(shapes: list[str], ms: list[int]) -> list[dict[str, object]]:
    """Microseconds of the portable kernel, and how many times as long it takes without."""
    variants = Times._fields[2:]
    print(f"{'shape':12}{'M':>6}{'us':>9}" + "".join(f"{name:>16}" for name in variants))
    rows: list[dict[str, object]] = []
    for name in shapes:
        for times in ablate(name, ms):
            rows.append({"shape": name, **times._asdict()})
            cells = "".join(f"{us / times.serving:16.2f}" for us in times[2:])
            print(f"{name:12}{times.m:6}{times.serving:9.1f}{cells}", flush=True)
    return rows


if __name__ == "__main__":
    main()
