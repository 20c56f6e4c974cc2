"""What is stored in slots of the cache comes back, and no other slot changes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qoq.kernels.kv_cache import (
    KvFormat,
    SlotMapping,
    dequantize_kv,
    load_codes,
    load_kv,
    load_scales,
    quantize_kv,
    store_kv,
)
from qoq.kernels.rope import apply_rope, rope_table
from qoq.kernels.rope_store_kv import rope_store_kv

from .closeness import assert_same_bits

NUM_BLOCKS = 5
# Blocks out of order, offsets at both ends of a block and odd ones, one block twice.
SLOTS = SlotMapping(torch.tensor([3, 0, 3, 4, 1, 3]), torch.tensor([0, 63, 5, 31, 1, 62]))


def make_format(kind: str, num_kv_heads: int = 3, head_dim: int = 64) -> KvFormat:
    bits, dtype = {
        "kv4": (4, torch.uint8),
        "kv8": (8, torch.uint8),
        "fp32": (None, torch.float32),
        "bf16": (None, torch.bfloat16),
        "fp16": (None, torch.float16),
    }[kind]
    return KvFormat(num_kv_heads, head_dim, bits, dtype)


KINDS = ["kv4", "kv8", "fp32", "bf16", "fp16"]


def load_slots(blocks: Tensor, slots: SlotMapping, fmt: KvFormat) -> Tensor:
    """Keys and values [M, 2, H, D] of the slots, through ``load_kv`` of all blocks in turn."""
    kv = load_kv(blocks, blocks.shape[0], fmt).unflatten(1, (blocks.shape[0], -1))
    return torch.stack([kv[:, b, :, o] for b, o in zip(*slots, strict=True)])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("head_dim", [2, 32, 64, 96, 128, 256])
def test_loads_what_was_stored(kind: str, head_dim: int):
    """The same bits as quantizing and dequantizing alone: fails if heads, keys and values, nibbles,
    or scale and bias change places on the way."""
    fmt = make_format(kind, head_dim=head_dim)
    cache, kv = fmt.allocate(NUM_BLOCKS), torch.randn(6, 2, 3, head_dim)
    store_kv(cache, SLOTS, kv, fmt)
    expected = (
        kv.to(fmt.dtype).float() if fmt.bits is None else dequantize_kv(*quantize_kv(kv, fmt.bits))
    )
    assert_same_bits("kv", load_slots(cache.blocks, SLOTS, fmt), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_other_slots_keep_their_bytes(kind: str):
    """Fails if a write spills into a neighbouring token, head or block."""
    fmt = make_format(kind)
    cache = fmt.allocate(NUM_BLOCKS)
    every = SlotMapping(
        torch.arange(NUM_BLOCKS).repeat_interleave(64), torch.arange(64).repeat(NUM_BLOCKS)
    )
    store_kv(cache, every, torch.randn(NUM_BLOCKS * 64, 2, 3, 64), fmt)
    before = load_slots(cache.blocks, every, fmt)
    untouched = cache.blocks[2].clone()
    store_kv(cache, SLOTS, torch.randn(6, 2, 3, 64) + 9, fmt)
    changed = (load_slots(cache.blocks, every, fmt) != before).flatten(1).any(dim=1)
    written = SLOTS.blocks * 64 + SLOTS.offsets
    assert changed.nonzero().flatten().tolist() == sorted(written.tolist())
    assert_same_bits("block 2", cache.blocks[2], untouched)


def test_layout_of_a_kv4_block():
    """The layout that GPU kernels will read: dimension d in the low, d + D / 2 in the high nibble;
    codes [2, H, block_size, D / 2], then fp16 scale and bias [2, H, 2, block_size]."""
    fmt = make_format("kv4", num_kv_heads=2, head_dim=4)
    cache = fmt.allocate(1)
    kv = torch.tensor([0.0, 3.0, 15.0, 6.0]).expand(1, 2, 2, 4) + torch.arange(2)[:, None]
    store_kv(cache, SlotMapping(torch.tensor([0]), torch.tensor([7])), kv, fmt)
    codes = cache.blocks[0, : 2 * 2 * 64 * 2].view(2, 2, 64, 2)
    scales = cache.blocks[0, 2 * 2 * 64 * 2 :].view(torch.float16).view(2, 2, 2, 64)
    for part in range(2):
        for head in range(2):
            assert codes[part, head, 7].tolist() == [0xF0, 0x63]
            assert scales[part, head, :, 7].tolist() == [1.0, head]
    assert (
        cache.blocks.count_nonzero() == (codes != 0).sum() + (scales.view(torch.uint8) != 0).sum()
    )
    assert codes[:, :, :7].count_nonzero() == 0 and scales[..., 8:].count_nonzero() == 0


@pytest.mark.parametrize("kind", ["kv4", "kv8"])
def test_codes_of_runs_of_blocks(kind: str):
    """Two runs of two blocks: token order is the order of the blocks given, not of their ids."""
    fmt = make_format(kind)
    cache, kv = fmt.allocate(NUM_BLOCKS), torch.randn(6, 2, 3, 64)
    store_kv(cache, SLOTS, kv, fmt)
    blocks = cache.blocks[torch.tensor([3, 0, 1, 3])]
    codes, scales = torch.stack(list(load_codes(blocks, 2, fmt))), load_scales(blocks, 2, fmt)
    assert codes.shape == (2, 2 * 3, 128, 64) and scales.shape == (2, 2, 2 * 3, 128)
    expected, scale_bias = quantize_kv(kv, fmt.bits)
    places = [(0, 0, 0), (1, 0, 127), (2, 0, 5), (4, 1, 1), (5, 1, 126)]  # token, run, position
    for token, run, position in places:
        heads = slice(run * 3, run * 3 + 3)
        assert torch.equal(codes[:, heads, position], expected[token].float())
        assert torch.equal(scales[:, :, heads, position].movedim(1, 2), scale_bias[token].float())


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_finite_is_stored_finite(kind: str):
    fmt = make_format(kind)
    cache = fmt.allocate(NUM_BLOCKS)
    kv = torch.tensor([torch.nan, torch.inf, -torch.inf, 1e38]).repeat(16).expand(6, 2, 3, 64)
    store_kv(cache, SLOTS, kv, fmt)
    assert torch.isfinite(load_kv(cache.blocks, 1, fmt)).all()


@pytest.mark.parametrize("kind", ["kv4", "fp32"])
def test_no_tokens(kind: str):
    fmt = make_format(kind)
    cache, none = fmt.allocate(1), torch.empty(0, dtype=torch.int64)
    store_kv(cache, SlotMapping(none, none), torch.empty(0, 2, 3, 64), fmt)
    assert cache.blocks.count_nonzero() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_slots_outside_the_cache_are_refused(kind: str):
    fmt = make_format(kind)
    cache = fmt.allocate(NUM_BLOCKS)
    for block, offset in ((NUM_BLOCKS, 0), (0, 64)):
        with pytest.raises(IndexError):
            slots = SlotMapping(torch.tensor([block]), torch.tensor([offset]))
            store_kv(cache, slots, torch.ones(1, 2, 3, 64), fmt)
    assert cache.blocks.count_nonzero() == 0


@pytest.mark.parametrize("shape", [(5, 2, 3, 64), (6, 1, 3, 64), (6, 2, 1, 64), (6, 2, 3, 1)])
def test_keys_and_values_of_another_shape_are_refused(shape: tuple[int, ...]):
    """One head, or one dimension, would broadcast."""
    fmt = make_format("kv4")
    with pytest.raises(ValueError, match=r"^kv: expected \[6, 2, 3, 64\], got"):
        store_kv(fmt.allocate(NUM_BLOCKS), SLOTS, torch.ones(shape), fmt)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rope_is_applied_to_queries_and_keys_and_not_to_values(kind: str, dtype: torch.dtype):
    """One fused pass has the bits of its parts; fails if a head boundary is off by one."""
    fmt = make_format(kind)
    qkv = torch.randn(6, 7 + 3 + 3, 64).to(dtype)
    rope = rope_table(torch.rand(32), 50)[torch.tensor([0, 1, 2, 30, 49, 7])]
    fused, parts = fmt.allocate(NUM_BLOCKS), fmt.allocate(NUM_BLOCKS)
    q = rope_store_kv(qkv, rope, fused, SLOTS, fmt)
    assert_same_bits("q", q, apply_rope(qkv[:, :7], rope))
    kv = torch.stack((apply_rope(qkv[:, 7:10], rope), qkv[:, 10:]), dim=1).float()
    store_kv(parts, SLOTS, kv, fmt)
    assert_same_bits("cache", fused.blocks, parts.blocks)


@pytest.mark.parametrize("shape", [(6, 6, 64), (6, 13, 32)])
def test_a_projection_without_queries_or_of_another_width_is_refused(shape: tuple[int, ...]):
    fmt = make_format("kv4")
    rope = rope_table(torch.rand(32), 6)
    with pytest.raises(ValueError, match=r"^qkv: expected \[M, Hq \+ 6, 64\], got"):
        rope_store_kv(torch.ones(shape), rope, fmt.allocate(NUM_BLOCKS), SLOTS, fmt)
