"""Run by test_decode_attention_triton in a process of its own: the interpreter is chosen at import.

Every case is compared with float64 over the dequantized cache, and by item size bit for bit.
"""

import interpreter  # noqa: F401
import torch
import triton
import triton.language as tl

from qoq.kernels.bench.attention_case import AttentionCase, make_case
from qoq.kernels.gpu.attention.decode_attention import decode_partials
from qoq.kernels.gpu.attention.decode_plan import DecodePlan
from qoq.kernels.gpu.attention.early_fetch import LANES, ranges
from qoq.kernels.gpu.attention.merge_partials import merge
from qoq.kernels.kv_cache import KvFormat


def attend(case: AttentionCase, prefix: int, window: int | None) -> torch.Tensor:
    _, num_heads, head_dim = case.q.shape
    plan = DecodePlan.allocate(
        len(case.context_lens) + 1,
        16,
        max(case.context_lens),
        num_heads=num_heads,
        num_kv_heads=case.fmt.num_kv_heads,
        head_dim=head_dim,
        device=case.q.device,
    )
    plan.set(case.context_lens, window, prefix)
    decode_partials(case.q, case.cache, case.tables, plan, case.fmt, case.scale)
    return merge(plan, torch.full_like(case.q, torch.nan, dtype=torch.float32))


def check(case: AttentionCase, window: int | None = None) -> None:
    name = f"{case.fmt} {case.context_lens} window {window}"
    out = attend(case, 1, window)
    for prefix in (3, 8):
        other = attend(case, prefix, window)
        assert torch.equal(out, other), f"{name}: the size of an item moved bits"
    live = [i for i, length in enumerate(case.context_lens) if length]
    error = (out[live].double() - case.reference(live, window)).abs().max()
    assert error <= case.bound(), f"{name}: error {error:.2e} of {case.bound():.2e}"
    assert not out[[i for i, length in enumerate(case.context_lens) if not length]].any(), name


@triton.jit
def _ranges_kernel(
    out_ptr,
    table_ptr,
    last,
    NUM_BLOCKS,
    ROW: tl.constexpr,
    HEADS: tl.constexpr,
    TILE: tl.constexpr,
    TILES: tl.constexpr,
):
    start, size = ranges(table_ptr, 1, last, 2, NUM_BLOCKS, ROW, HEADS, TILE, TILES)
    out = out_ptr + 2 * tl.arange(0, LANES)
    tl.store(out, 2 * start)
    tl.store(out + 1, size)


def check_early(fmt: KvFormat, last: int, tiles: int) -> None:
    """The second and third of four blocks, of which the third lies past the cache's end."""
    cache = fmt.allocate(5)
    table = torch.tensor([1, 3, 9, 2], dtype=torch.int32)
    out = torch.zeros(int(LANES), 2, dtype=torch.int64)
    row = fmt.head_dim * fmt.bits // 16
    _ranges_kernel[(1,)](out, table, last, 5, row, fmt.num_kv_heads, fmt.block_size, tiles)
    expected = []
    for block in (3, 4):
        own = fmt.codes(cache.blocks)[block, :, 2], fmt.scales(cache.blocks)[block, :, 2]
        for part in (own[0][0], own[0][1], own[1][0], own[1][1]):
            assert part.is_contiguous()
            begin = part.data_ptr() - cache.blocks.data_ptr()
            expected.append([begin, part.numel() * part.element_size()])
    assert out[:8].tolist() == expected, fmt
    assert not out[8:, 1].any()


if __name__ == "__main__":
    torch.manual_seed(0)
    for bits in (4, 8):
        check_early(KvFormat(3, 96, bits), last=3, tiles=3)
        check_early(KvFormat(3, 96, bits), last=4, tiles=2)
        check(make_case([300, 0, 64], (6, 2), 64, bits=bits, device="cpu"))
    check(make_case([65], (16, 1), 96, device="cpu"))
    check(make_case([1], (3, 1), 256, device="cpu", dtype=torch.bfloat16))
    check(make_case([2500], (2, 1), 32, device="cpu"))
    check(
        make_case([2500], (2, 1), 32, device="cpu"), window=750
    )  # from a partition's last tile on
    print("equal")
