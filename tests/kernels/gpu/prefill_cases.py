"""Prefill attention against float64 over the dequantized cache, and by chunk bit for bit."""

from dataclasses import replace

import torch

from qoq.kernels.bench.attention_case import AttentionCase
from qoq.kernels.gpu.prefill_attention import plan_prefill, prefill_attention
from qoq.kernels.kv_cache import KvCache
from qoq.kernels.paged_attention import paged_attention_reference


def run(
    case: AttentionCase, q: torch.Tensor, spans: list[tuple[int, int]], window: int | None
) -> torch.Tensor:
    """Positions ``start`` to ``stop`` of each request."""
    programs = plan_prefill(
        [stop - start for start, stop in spans],
        [stop for _, stop in spans],
        q.shape[1],
        case.fmt.num_kv_heads,
    )
    programs = programs.to(q.device)
    return prefill_attention(q, case.cache, case.tables, programs, case.fmt, case.scale, window)


def check(case: AttentionCase, window: int | None = None) -> None:
    lengths = case.context_lens
    heads, size = case.q.shape[1:]
    device, dtype = case.q.device, torch.float32 if case.q.device.type == "cpu" else torch.float16
    queries = [torch.randn(n, heads, size).to(device, dtype) for n in lengths]
    whole = run(case, torch.cat(queries), [(0, length) for length in lengths], window)
    blocks = case.cache.blocks.cpu()
    expected = paged_attention_reference(
        torch.cat(queries).double().cpu(),
        KvCache(blocks, case.fmt.codes(blocks), case.fmt.scales(blocks)),
        [[int(block) for block in row] for row in case.tables],
        lengths,
        lengths,
        case.fmt,
        case.scale,
        window,
    )
    name = f"{case.fmt} {lengths} window {window}"
    error = (whole.double().cpu() - expected).abs().max()
    bound = replace(case, q=torch.cat(queries)).bound()
    assert error <= bound, f"{name}: error {error:.2e} of {bound:.2e}"
    cuts = [(length // 3, length) for length in lengths]
    part = run(
        case, torch.cat([q[s:] for q, (s, _) in zip(queries, cuts, strict=True)]), cuts, window
    )
    rows = torch.cat([w[s:] for w, (s, _) in zip(whole.split(lengths), cuts, strict=True)])
    assert torch.equal(part, rows), f"{name}: a chunk's boundary moved bits"
