"""The Gluon W4A8 GEMM for Hopper: what it compiles to here, and its bits where there is one."""

import re

import pytest
import torch

triton = pytest.importorskip("triton", reason="needs triton, which torch's CPU builds leave out")

from qoq.kernels.gpu.w4a8_config import STREAM_K, HopperTile  # noqa: E402
from qoq.kernels.gpu.w4a8_gluon import REGISTERS, _layouts, w4a8_gemm_gluon  # noqa: E402
from qoq.kernels.gpu.w4a8_gluon_kernel import _w4a8_kernel  # noqa: E402
from qoq.kernels.gpu.w4a8_operands import Workspace  # noqa: E402
from qoq.kernels.gpu.w4a8_table import shipped_table  # noqa: E402
from qoq.kernels.quantize import QuantizedActivations  # noqa: E402

from .sass import assemble, compile_ahead, main_loop  # noqa: E402

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


def shipped_tiles() -> set[HopperTile]:
    """As the table has them; what splits K compiles to the same code."""
    table = shipped_table(90)
    assert table is not None
    configs = {choice.config for choices in table.choices.values() for choice in choices}
    return {tile._replace(split_k=1) for tile in configs if isinstance(tile, HopperTile)}


@pytest.mark.slow
@pytest.mark.parametrize("groups", [0, 1, 2])
def test_main_loop_is_clean(groups: int) -> None:
    """No spill, no store to shared memory, no shuffling of bytes, no wait that ptxas put in."""
    for tile in sorted(shipped_tiles()) if groups < 2 else [HopperTile(64, 4, 2)]:
        compiled = compile_for(groups, tile)
        opcodes = {line.split()[0].split(".")[0] for line in main_loop(compiled.asm["cubin"])}
        messages = assemble(compiled.asm["ptx"], 90)
        where = f"{groups} groups, {tile}"
        assert "IGMMA" in opcodes, where
        assert not {"STS", "STL", "LDL", "PRMT"} & opcodes, where
        assert not re.search(r"C75\d\d", messages), where
        assert "0 bytes spill stores" in messages, where
        assert compiled.metadata.shared * tile.blocks_per_sm <= 227 << 10, where


def compile_for(groups: int, tile: HopperTile):  # type: ignore[no-untyped-def]
    half, line, swizzled = _layouts()
    chunks = 2 if tile.block_m == 256 else 1
    max_registers, registers = REGISTERS[tile.blocks_per_sm]
    descriptors = {
        "x_desc": f"tensordesc<i8[{tile.block_m}, 64],{half!r}>",
        "w_desc": f"tensordesc<u8[64, 64],{half!r}>",
        "group_desc": f"tensordesc<i32[64],{line!r}>",
        "scale_desc": f"tensordesc<fp32[{tile.block_m}],{line!r}>",
        "sum_desc": f"tensordesc<i32[{tile.block_m}],{line!r}>",
        "y_desc": f"tensordesc<fp16[{tile.block_m // chunks}, 64],{swizzled!r}>",
    }
    constants = {
        "BLOCK_M": tile.block_m,
        "GROUPS": groups,
        "STAGES": tile.num_stages,
        "BOXES": tile.boxes,
        "CHUNKS": chunks,
        "HAS_BIAS": True,
        "TAKES_TURNS": tile.takes_turns,
        "REGISTERS": registers,
    }
    options = {"maxnreg": max_registers} if max_registers else {}
    signature = descriptors | POINTERS | dict.fromkeys(SIZES, "i32")
    return compile_ahead(
        _w4a8_kernel, 90, signature, constants, [*POINTERS], num_warps=4, **options
    )


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0),
    reason="needs a Hopper GPU",
)
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
