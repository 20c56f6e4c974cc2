"""The Gluon W4A8 GEMM for Hopper: what it compiles to here, and its bits where there is one."""

import re

import pytest
import torch

triton = pytest.importorskip("triton", reason="needs triton, which torch's CPU builds leave out")

from qoq.kernels.gpu.gemm.w4a8_config import STREAM_K, HopperTile  # noqa: E402
from qoq.kernels.gpu.gemm.w4a8_gluon import (  # noqa: E402
    _layouts,
    chunks,
    registers,
    stored_block,
    w4a8_gemm_gluon,
)
from qoq.kernels.gpu.gemm.w4a8_gluon_kernel import _w4a8_kernel  # noqa: E402
from qoq.kernels.gpu.gemm.w4a8_operands import Workspace  # noqa: E402
from qoq.kernels.gpu.gemm.w4a8_table import shipped_table  # noqa: E402
from qoq.kernels.gpu.sizes import next_power_of_2  # noqa: E402
from qoq.kernels.quantize import QuantizedActivations  # noqa: E402

from ..sass import assemble, compile_ahead, main_loop  # noqa: E402
from .w4a8_cases import (  # noqa: E402
    assert_close_with_bias,
    assert_is_silu_mul,
    head,
    plain_and_gated,
    product,
)

POINTERS = {
    "w_scale_ptr": "*fp32",
    "zero_ptr": "*u8",
    "bias_ptr": "*fp16",
    "partial_ptr": "*i32",
    "counter_ptr": "*i32",
}
SIZES = ["N", "num_boxes", "tiles_m", "tiles_n", "steps", "share"]
TILES = [
    HopperTile(16, 4, 2, 2, 2),
    HopperTile(32, 5, 2, STREAM_K),
    HopperTile(64, 5, 1, 4, 2),
    HopperTile(128, 6, 1, 2),
    HopperTile(256, 4),
    HopperTile(256, 4, takes_turns=True),
]
NARROW_TILES = [
    HopperTile(16, 4, 4, 2, 2, channels=64),
    HopperTile(32, 5, 2, STREAM_K, channels=64),
    HopperTile(64, 4, 4, 4, channels=64),
    HopperTile(128, 4, 2, 2, takes_turns=True, channels=64),
]

HIGH_TILES = [
    HopperTile(64, 8, 1, STREAM_K, channels=256),
    HopperTile(128, 5, 1, 2, channels=256),
]
STRIP_TILES = [
    HopperTile(224, 5, 1, STREAM_K),
    HopperTile(96, 6, 1, 2, channels=256),
    HopperTile(96, 9, 1, STREAM_K),
    HopperTile(160, 6, 1, 2, takes_turns=True),
    HopperTile(192, 5, 1, 4),
]


def shipped_tiles(per_channel: bool) -> set[HopperTile]:
    """As the table has them, and some others; what splits K compiles to the same code."""
    table = shipped_table(90)
    assert table is not None
    of_kind = [table.choices[shape] for shape in table.choices if shape.per_channel == per_channel]
    configs = {choice.config for choices in of_kind for choice in choices}
    tiles = [tile for tile in configs if isinstance(tile, HopperTile)]
    tiles += NARROW_TILES[2:] + HIGH_TILES + STRIP_TILES[:2]
    return {tile._replace(split_k=1) for tile in tiles}


@pytest.mark.slow
@pytest.mark.parametrize("groups", [0, 1, 2])
def test_main_loop_is_clean(groups: int) -> None:
    """No spill, no store to shared memory, no shuffling of bytes, no wait that ptxas put in."""
    few = {HopperTile(64, 4, 2), NARROW_TILES[0]}
    for tile in sorted(few if groups == 2 else shipped_tiles(per_channel=groups == 0)):
        assert_is_clean(groups, tile, is_gated=False)


@pytest.mark.slow
def test_a_gated_weight_s_loop_is_clean_too() -> None:
    wide = [HopperTile(64, 5, 1, 4, 2), HopperTile(256, 4, takes_turns=True), HIGH_TILES[1]]
    for tile in (*wide, NARROW_TILES[3], STRIP_TILES[0]):
        assert_is_clean(1, tile, is_gated=True)


def assert_is_clean(groups: int, tile: HopperTile, is_gated: bool) -> None:
    compiled = compile_for(groups, tile, is_gated)
    opcodes = {line.split()[0].split(".")[0] for line in main_loop(compiled.asm["cubin"])}
    messages = assemble(compiled.asm["ptx"], 90)
    where = f"{groups} groups, {tile}, {is_gated}"
    assert "IGMMA" in opcodes, where
    assert not {"STS", "STL", "LDL", "PRMT"} & opcodes, where
    assert not re.search(r"C75\d\d", messages), where
    assert "0 bytes spill stores" in messages, where
    shared = compiled.metadata.shared + 1024  # of which each block takes 1024 for itself
    assert shared * tile.blocks_per_sm <= 228 << 10, where


def compile_for(groups: int, tile: HopperTile, is_gated: bool):  # type: ignore[no-untyped-def]
    y_block = stored_block(tile, is_gated)
    half, line, swizzled = _layouts(y_block[1])
    line_block = [next_power_of_2(tile.block_m)]
    x_types = [f"tensordesc<i8[{strip}, 64],{half!r}>" for strip in tile.strips]
    x_descs = dict(zip(["x_desc", "x2_desc", "x3_desc"], x_types, strict=False))
    descriptors = {
        **x_descs,
        "w_desc": f"tensordesc<u8[64, 64],{half!r}>",
        "group_desc": f"tensordesc<i32[64],{line!r}>",
        "scale_desc": f"tensordesc<fp32{line_block},{line!r}>",
        "sum_desc": f"tensordesc<i32{line_block},{line!r}>",
        "y_desc": f"tensordesc<fp16{y_block},{swizzled!r}>",
    }
    constants = {
        **dict.fromkeys({"x2_desc", "x3_desc"} - {*x_descs}),
        "BLOCK_M": tile.block_m,
        "GROUPS": groups,
        "STAGES": tile.num_stages,
        "BOXES": tile.boxes,
        "PARTS": tile.parts,
        "HEIGHT": tile.channels // tile.parts,
        "CHUNKS": chunks(tile, is_gated),
        "HAS_BIAS": True,
        "IS_GATED": is_gated,
        "TAKES_TURNS": tile.takes_turns,
    }
    options = registers(tile)
    constants |= {name: options.pop(name) for name in [*options] if name.isupper()}
    signature = descriptors | POINTERS | dict.fromkeys(SIZES, "i32")
    return compile_ahead(
        _w4a8_kernel, 90, signature, constants, [*POINTERS], num_warps=4, **options
    )


on_hopper = pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0),
    reason="needs a Hopper GPU",
)


@pytest.mark.gpu
@on_hopper
@pytest.mark.parametrize("group_size", [128, 64, -1])
@pytest.mark.parametrize("shape", [(576, 1536), (200, 576), (6144, 4096)])
def test_equals_the_definition_on_a_gpu(shape: tuple[int, int], group_size: int) -> None:
    """Launch after launch, and the same row gives the same bits at every M."""
    from qoq.kernels.bench.gemm import random_activations, random_weight, reference

    if shape[1] % group_size:
        pytest.skip(f"groups of {group_size} do not divide K = {shape[1]}")
    operands = random_weight(*shape, group_size, 1)
    workspace = Workspace(torch.device("cuda"))
    x = random_activations(2048, shape[1])
    expected = reference(x, operands)
    for m in (1, 2, 3, 8, 15, 16, 17, 33, 64, 100, 128, 255, 256, 500, 2048):
        part = QuantizedActivations(x.codes[:m], x.scales[:m])
        for tile in TILES:
            for split_k in {1, tile.split_k, 4, STREAM_K}:
                config = tile._replace(split_k=split_k)
                for _ in range(3):
                    got = w4a8_gemm_gluon(part, operands.copies[0], config, workspace)
                    assert torch.equal(got, expected[:m]), (m, config)
    assert not workspace.counters.any()


@pytest.mark.gpu
@on_hopper
@pytest.mark.parametrize(
    ("n", "k", "group_size"),
    [(136, 576, 64), (136, 576, -1), (1000, 4224, 128), (1000, 4224, -1), (6144, 4096, 128)],
)
def test_other_widths_equal_the_definition_on_a_gpu(n: int, k: int, group_size: int) -> None:
    """Ends of rows of boxes within a stage, and blocks of threads with many tiles each."""
    from qoq.kernels.bench.gemm import random_activations, random_weight, reference

    operands = random_weight(n, k, group_size, 1)
    workspace = Workspace(torch.device("cuda"))
    x, bias = random_activations(500, k), torch.randn(n, device="cuda").bfloat16()
    expected = reference(x, operands)
    with_bias = product(x, operands.integers, operands.copies[0].scales)
    for tile in NARROW_TILES + HIGH_TILES + STRIP_TILES:
        for config in (tile._replace(split_k=1), tile):
            for m in (1, 16, 17, 33, 64, 100, 128, 255, 256, 500):
                part = head(x, m)
                for _ in range(3):
                    got = w4a8_gemm_gluon(part, operands.copies[0], config, workspace)
                    assert torch.equal(got, expected[:m]), (m, config)
            y = w4a8_gemm_gluon(x, operands.copies[0], config, workspace, bias, torch.bfloat16)
            assert_close_with_bias(y, with_bias, bias)
    assert not workspace.counters.any()


@pytest.mark.gpu
@on_hopper
@pytest.mark.parametrize(
    ("n", "k", "group_size", "dtype"),
    [(144, 576, 64, torch.bfloat16), (1008, 4224, 128, torch.float16)],
)
def test_a_gated_weight_gives_silu_mul_on_a_gpu(
    n: int, k: int, group_size: int, dtype: torch.dtype
) -> None:
    """In whole tiles and split ones of every width: the bits of the kernels it stands for."""
    from qoq.kernels.bench.gemm import random_activations

    plain, gated = plain_and_gated(n, k, group_size, "cuda")
    workspace, x = Workspace(torch.device("cuda")), random_activations(500, k)
    y = w4a8_gemm_gluon(x, plain, TILES[4], workspace, None, dtype)
    wide = [TILES[0], TILES[2], TILES[5], *HIGH_TILES]
    for tile in (*wide, NARROW_TILES[1], NARROW_TILES[3], *STRIP_TILES[:2]):
        for config in {tile._replace(split_k=split_k) for split_k in (1, 4, STREAM_K)}:
            for m in (1, 129, 500):
                for _ in range(3):
                    got = w4a8_gemm_gluon(head(x, m), gated, config, workspace, None, dtype)
                    assert_is_silu_mul(got, y[:m])
    assert not workspace.counters.any()
