"""Prefill attention over the paged KV cache: ``python -P -m qoq.kernels.bench.prefill`` on a GPU.

Every setting is compared with float64 over the dequantized cache before it is timed. Microseconds
are those of dequantization and attention together. torch's attention runs on the same shape in
bf16, its cache contiguous; its time is the best of its backends, with shared or repeated kv heads.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NamedTuple

import torch
import triton
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

from qoq.kernels.bench.attention_case import AttentionCase, make_case
from qoq.kernels.bench.prefill_case import (
    Config,
    check_prefill,
    plan_of,
    random_queries,
)
from qoq.kernels.bench.timing import time_us
from qoq.kernels.gpu.attention.dequantize_kv import dequantize_blocks
from qoq.kernels.gpu.attention.prefill_attention import (
    prefill_attention,
    prefill_config,
    scratch_width,
)
from qoq.kernels.gpu.attention.prefill_gluon import HopperPrefill
from qoq.kernels.gpu.attention.prefill_triton import PrefillTile

HEAD_DIM = 128
LLAMA_3_8B, LLAMA_2_7B = (32, 8), (32, 32)


class Point(NamedTuple):
    """The last ``queries`` tokens of ``batch`` contexts."""

    name: str
    batch: int
    context: int
    queries: int

    def flops(self, num_heads: int) -> int:
        """Multiplications and additions of what is seen."""
        seen = self.queries * (2 * self.context - self.queries + 1) // 2
        return 4 * self.batch * num_heads * HEAD_DIM * seen


POINTS = [
    Point("1k x 16", 16, 1024, 1024),
    Point("8k x 2", 2, 8192, 8192),
    Point("32k", 1, 32768, 32768),
    Point("2k at 32k", 1, 32768, 2048),
]
RAGGED = [1, 63, 64, 65, 127, 128, 129, 300, 1000, 2049, 5000]
# head_dim, heads, bits, window, dtype of the queries
SHAPES = [
    (64, (9, 3), 4, None, torch.float16),
    (64, (16, 1), 8, 300, torch.bfloat16),
    (96, (8, 8), 4, None, torch.float16),
    (128, (32, 8), 4, None, torch.bfloat16),
    (128, (14, 2), 8, None, torch.float16),
    (128, (12, 2), 4, 1000, torch.float16),
    (256, (8, 4), 4, None, torch.float16),
    (256, (4, 4), 8, 200, torch.bfloat16),
]
HOPPER_VARIANTS = [
    HopperPrefill(128, 2),
    HopperPrefill(128, 2, issues_first=False),
    HopperPrefill(128, 3),
    HopperPrefill(128, 3, issues_first=False),
    HopperPrefill(64, 4),
]
VARIANTS = [PrefillTile(64, 8, 3), PrefillTile(128, 8, 2), PrefillTile(64, 8, 2)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="qoq.kernels.bench.prefill")
    parser.add_argument("--bits", type=int, default=4, choices=[4, 8])
    parser.add_argument("--only", choices=["check", "table"], help="leave the other out")
    parser.add_argument("--all", action="store_true", help="time the settings not shipped, too")
    args = parser.parse_args()
    if args.only != "table":
        check_shapes()
    if args.only != "check":
        print_table(args.bits, variants(args.all))


def variants(is_all: bool) -> list[Config]:
    major, minor = torch.cuda.get_device_capability()
    shipped = prefill_config(HEAD_DIM, 10 * major + minor)
    others: list[Config] = [*HOPPER_VARIANTS] if (major, minor) == (9, 0) else []
    others += VARIANTS
    return [shipped] + [config for config in others if is_all and config != shipped]


def check_shapes() -> None:
    for head_dim, heads, bits, window, dtype in SHAPES:
        case = make_case(RAGGED, heads, head_dim, bits=bits, dtype=dtype)
        parts = [length - length // 3 for length in RAGGED]
        for query_lens in (RAGGED, parts):
            for config in (None, PrefillTile(32, 8, 2) if head_dim > 128 else VARIANTS[-1]):
                q = random_queries(case, query_lens)
                check_prefill(case, q, query_lens, window, config, num_rows=400)
        print(f"D {head_dim}, heads {heads}, KV{bits}, window {window}: within bounds", flush=True)
    case = make_case([131072, 70000, 5], LLAMA_3_8B, HEAD_DIM)
    check_prefill(case, random_queries(case, [200, 3, 5]), [200, 3, 5], num_rows=50)
    print("131072 tokens: within bounds", flush=True)


def print_table(bits: int, configs: list[Config]) -> None:
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}, "
        f"KV{bits}, head_dim {HEAD_DIM}"
    )
    print(
        f"{'heads':>6}  {'prompts':10}{'us':>9}{'dequant':>9}{'TFLOPS':>8}{'torch us':>10}"
        f"{'TFLOPS':>8}{'ratio':>7}"
    )
    for heads in (LLAMA_3_8B, LLAMA_2_7B):
        for point in POINTS:
            case = make_case([point.context] * point.batch, heads, HEAD_DIM, bits=bits)
            peer, peer_us = _torch_us(point, heads)
            dequantize_us = _dequantize_us(case, point)
            for config in configs:
                us = _measure(case, point, config)
                rates = [point.flops(heads[0]) / x / 1e6 for x in (us, peer_us)]
                print(
                    f"{heads[0]:3}:{heads[1]:<2}  {point.name:10}{us:9.1f}{dequantize_us:9.1f}"
                    f"{rates[0]:8.0f}{peer_us:10.1f}{rates[1]:8.0f}{peer_us / us:7.2f}  "
                    f"{config}; torch: {peer}",
                    flush=True,
                )


def _measure(case: AttentionCase, point: Point, config: Config) -> float:
    query_lens = [point.queries] * point.batch
    q = random_queries(case, query_lens)
    check_prefill(case, q, query_lens, None, config, num_rows=32)
    plan = plan_of(case, query_lens)
    fmt = case.fmt
    return time_us(
        lambda _: prefill_attention(q, case.cache, case.tables, plan, fmt, case.scale, config), 5
    )


def _dequantize_us(case: AttentionCase, point: Point) -> float:
    """As if the scratch held all heads."""
    plan, fmt = plan_of(case, [point.queries] * point.batch), case.fmt
    size = 2 * fmt.num_kv_heads * plan.num_rows, scratch_width(fmt.head_dim)
    scratch = torch.empty(size, dtype=torch.float16, device="cuda")
    heads = range(fmt.num_kv_heads)
    return time_us(
        lambda _: dequantize_blocks(case.cache, case.tables, plan.blocks, heads, fmt, scratch), 5
    )


def _torch_us(point: Point, heads: tuple[int, int]) -> tuple[str, float]:
    """The fastest way through torch's attention, and its microseconds."""
    sizes = (heads[0], point.queries), (heads[1], point.context), (heads[1], point.context)
    q, *kv = (
        torch.randn(point.batch, *size, HEAD_DIM, dtype=torch.bfloat16, device="cuda")
        for size in sizes
    )
    wide = [x.repeat_interleave(heads[0] // heads[1], dim=1) for x in kv]
    times: dict[str, float] = {}
    for backend in (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION):
        for name, (k, v) in (("shared", kv), ("repeated", wide)):
            us = _backend_us(backend, _torch_attention(q, k, v))
            if us is not None:
                times[f"{backend.name.split('_')[0].lower()}, {name} kv heads"] = us
    return min(times.items(), key=lambda item: item[1])


def _torch_attention(q: Tensor, k: Tensor, v: Tensor) -> Callable[[int], Tensor]:
    shares = q.shape[1] != k.shape[1]
    if q.shape[2] == k.shape[2]:
        return lambda _: scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=shares)
    bias = causal_lower_right(q.shape[2], k.shape[2])
    return lambda _: scaled_dot_product_attention(q, k, v, attn_mask=bias, enable_gqa=shares)


def _backend_us(backend: SDPBackend, call: Callable[[int], Tensor]) -> float | None:
    """None where the backend does not take the shape; torch tells that by a RuntimeError only."""
    with sdpa_kernel(backend):
        try:
            call(0)
        except RuntimeError:
            return None
        return time_us(call, 5)


if __name__ == "__main__":
    main()
