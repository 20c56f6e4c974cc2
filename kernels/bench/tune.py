"""The sweep behind ``qoq tune``: the W4A8 GEMM's fastest configurations on this GPU, as a table."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import torch
import triton
from tqdm import tqdm

from qoq.kernels.bench.gemm import device_arch, sweep
from qoq.kernels.gpu.gemm.w4a8_table import Choice, GemmTable, Shape

M_BUCKETS = [16, 32, *range(64, 257, 32), *range(320, 513, 64), 640, 768, 1024, 2048, 8192]
GROUP_SIZE = 128


def tune(shapes: list[tuple[int, int]], ms: list[int] = M_BUCKETS) -> GemmTable:
    """Of weights ``(n, k)``, per group and per channel.

    Raises AssertionError where a candidate's result differs from the definition.
    """
    wanted = [Shape(n, k, per_channel) for per_channel in (False, True) for n, k in shapes]
    choices = {}
    for shape in tqdm(wanted, desc="tuning", unit="shape"):
        group_size = -1 if shape.per_channel else GROUP_SIZE
        bests = sweep(shape.n, shape.k, group_size, ms)
        choices[shape] = [Choice(best.m, best.config, best.us) for best in bests]
    versions = f"torch {torch.__version__}, triton {triton.__version__}"
    card = torch.cuda.get_device_name()
    return GemmTable(f"{card}, {versions}, {date.today()}", choices)


def write_table(table: GemmTable, path: Path | None = None) -> Path:
    """By default ``sm_<arch>.json`` in the current folder."""
    path = path or Path(f"sm_{device_arch()}.json")
    path.write_text(table.to_json())
    return path
