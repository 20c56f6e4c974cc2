"""Decode attention over the paged KV4 cache: ``python -P -m qoq.kernels.bench.attention`` on a GPU.

Every setting is compared with float64 over the dequantized cache first, and the choice of items
must not move a bit. Microseconds are those of partials, merge and quantization together. What a
call fetches early arrives during the merge in front of it, in a model during RoPE.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from qoq.kernels.bench.attention_case import AttentionCase, make_case
from qoq.kernels.bench.timing import NUM_CALLS, copy_bandwidth, time_us
from qoq.kernels.gpu.attention.decode_attention import DecodeConfig, decode_partials
from qoq.kernels.gpu.attention.decode_plan import PARTITION, DecodePlan
from qoq.kernels.gpu.attention.merge_partials import merge, merge_quantize
from qoq.kernels.gpu.quantized_rows import QuantizedRows
from qoq.kernels.gpu.sizes import cdiv
from qoq.kernels.kv_cache import KvCache
from qoq.kernels.quantize import quantize_activations

L2_BYTES = 160 << 20  # caches rotate through more than this
LLAMA_3_8B, LLAMA_2_7B = (32, 8), (32, 32)
POINTS = [
    (LLAMA_3_8B, 256, 1280),
    (LLAMA_3_8B, 64, 1280),
    (LLAMA_3_8B, 64, 8192),
    (LLAMA_3_8B, 16, 1280),
    (LLAMA_3_8B, 1, 1280),
    (LLAMA_3_8B, 1, 32768),
    (LLAMA_2_7B, 64, 1280),
]
SHAPES = [
    (64, (9, 3)),
    (96, (8, 8)),
    (128, (8, 8)),
    (128, (32, 8)),
    (128, (12, 2)),
    (128, (28, 4)),
    (128, (32, 2)),
    (256, (8, 4)),
]
RAGGED = [1, 63, 64, 65, 255, 256, 257, 2047, 2048, 2049, 5000, 0, 20000]


def main() -> None:
    parser = argparse.ArgumentParser(prog="qoq.kernels.bench.attention")
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 8], choices=[4, 8])
    parser.add_argument("--only", choices=["check", "table"], help="leave the other out")
    args = parser.parse_args()
    if args.only != "table":
        check_shapes(args.bits)
    if args.only != "check":
        print_table(args.bits)


def check_shapes(all_bits: list[int]) -> None:
    for head_dim, heads in SHAPES:
        for bits in all_bits:
            check(make_case(RAGGED, heads, head_dim, bits=bits))
            print(f"D {head_dim}, heads {heads}, KV{bits}: within bounds", flush=True)


def print_table(all_bits: list[int]) -> None:
    copy = copy_bandwidth()
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}, "
        f"copy {copy:.2f} TB/s"
    )
    print(
        f"{'heads':>8}{'batch':>7}{'context':>9}{'bits':>6}{'us':>9}{'merge':>7}{'TB/s':>7}{'/copy':>7}"
    )
    for heads, batch, context in POINTS:
        for bits in all_bits:
            for row in _measure(make_case([context] * batch, heads, 128, bits=bits)):
                speed = row.num_bytes / row.us / 1e6
                print(
                    f"{heads[0]:5}:{heads[1]:<2}{batch:7}{context:9}{bits:6}{row.us:9.1f}"
                    f"{row.merge_us:7.1f}{speed:7.2f}{speed / copy:7.2f}  "
                    f"{row.items} items",
                    flush=True,
                )


class Row(NamedTuple):
    us: float
    merge_us: float
    num_bytes: int
    items: int


def config_of(case: AttentionCase) -> DecodeConfig:
    return DecodeConfig.of(case.fmt, case.q.shape[1])


def plan_of(case: AttentionCase, prefix: int | None = None) -> DecodePlan:
    plan = DecodePlan.allocate(
        len(case.context_lens),
        sum(cdiv(length, PARTITION) for length in case.context_lens),
        max(case.context_lens),
        num_heads=case.q.shape[1],
        num_kv_heads=case.fmt.num_kv_heads,
        head_dim=case.fmt.head_dim,
        device=case.q.device,
    )
    plan.set(case.context_lens, None, prefix)
    return plan


def attend(
    case: AttentionCase, cache: KvCache, plan: DecodePlan, config: DecodeConfig, out: Tensor
) -> Tensor:
    decode_partials(case.q, cache, case.tables, plan, case.fmt, case.scale, config)
    return merge(plan, out)


def check(case: AttentionCase) -> None:
    """Raises AssertionError for an error past the bound, bits that depend on items, or rows that
    are not quantized as their definition says.
    """
    expected = case.reference([i for i, length in enumerate(case.context_lens) if length])
    live = torch.tensor([length > 0 for length in case.context_lens])
    config = config_of(case)
    out = attend(case, case.cache, plan_of(case), config, torch.full_like(case.q, torch.nan)).cpu()
    quantized = quantize_activations(out.flatten(1))
    for prefix in (None, 1, 8):
        plan = plan_of(case, prefix)
        other = attend(case, case.cache, plan, config, torch.full_like(case.q, torch.nan))
        assert torch.equal(out, other.cpu()), f"{case.fmt}: the size of an item moved bits"
        rows = rows_of(case)
        merge_quantize(plan, case.q, rows)
        got = (rows.codes.cpu(), rows.scales.cpu(), rows.sums.cpu())
        same = all(map(torch.equal, got, (*quantized, quantized.sums)))
        assert same, f"{case.fmt}: rows are not quantized as attention is"
    error = float((out[live].double() - expected).abs().max())
    assert error <= case.bound(), f"{case.fmt}: error {error:.2e} of {case.bound():.2e}"
    assert not out[~live].any(), f"{case.fmt}: attention to nothing is not 0"


def rows_of(case: AttentionCase) -> QuantizedRows:
    num_requests, num_heads, head_dim = case.q.shape
    return QuantizedRows.allocate(num_requests, num_heads * head_dim, case.q.device)


def copies_of(case: AttentionCase) -> list[KvCache]:
    """So many that they do not stay in the L2."""
    copies = [case.cache]
    for _ in range(-(-L2_BYTES // case.num_bytes) - 1):
        own = case.cache.blocks.clone()
        copies.append(KvCache(own, case.fmt.codes(own), case.fmt.scales(own)))
    return copies


def _measure(case: AttentionCase) -> Iterator[Row]:
    copies = copies_of(case)
    some = sorted({0, len(case.context_lens) - 1})
    expected, out = case.reference(some), torch.empty_like(case.q)
    config, rows = config_of(case), rows_of(case)

    def step(index: int, plan: DecodePlan) -> None:
        cache = copies[index % len(copies)]
        decode_partials(case.q, cache, case.tables, plan, case.fmt, case.scale, config)
        merge_quantize(plan, case.q, rows)

    for prefix in (None, 1, 2, 8):
        plan = plan_of(case, prefix)
        got = attend(case, case.cache, plan, config, out)[some].cpu().double()
        error = float((got - expected).abs().max())
        assert error <= case.bound(), f"{config}: error {error:.2e} of {case.bound():.2e}"
        us = time_us(partial(step, plan=plan), max(NUM_CALLS, len(copies)))
        merge_us = time_us(lambda _, plan=plan: merge_quantize(plan, case.q, rows))  # type: ignore[misc]
        yield Row(us, merge_us, case.num_bytes, int(plan.count))


if __name__ == "__main__":
    main()
