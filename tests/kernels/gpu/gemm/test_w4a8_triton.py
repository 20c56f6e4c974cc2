"""The Triton W4A8 GEMM: bit for bit under the interpreter and on a GPU, and what it compiles to."""

import re

import pytest
import torch

from qoq.kernels.gpu.gemm.w4a8_weight import W4A8Weight, pack_per_channel, pack_per_group
from qoq.kernels.packing import pack_codes
from qoq.kernels.quantize import QuantizedActivations

triton = pytest.importorskip("triton", reason="needs triton, which torch's CPU builds leave out")

from qoq.kernels.gpu.gemm.w4a8_config import TileConfig  # noqa: E402
from qoq.kernels.gpu.gemm.w4a8_operands import Workspace  # noqa: E402
from qoq.kernels.gpu.gemm.w4a8_triton import _w4a8_gemm_kernel, w4a8_gemm_triton  # noqa: E402

from ..interpreted import assert_equal_under_the_interpreter  # noqa: E402
from ..sass import assemble, compile_ahead, main_loop  # noqa: E402

POINTERS = {
    "x_ptr": "*i8",
    "w_ptr": "*u8",
    "group_ptr": "*i32",
    "x_scale_ptr": "*fp32",
    "w_scale_ptr": "*fp32",
    "x_sum_ptr": "*i32",
    "zero_ptr": "*u8",
    "bias_ptr": "*fp16",
    "y_ptr": "*fp16",
    "partial_ptr": "*i32",
    "counter_ptr": "*i32",
}
SIZES = {"M": "i32", "N": "i32", "K": "i32", "stride_x": "i32"}
TILES = [
    TileConfig(16, 64, 4, 5, 4),
    TileConfig(16, 128, 4, 4, 1),
    TileConfig(64, 64, 4, 6, 2),
    TileConfig(64, 128, 4, 4, 2),
    TileConfig(128, 128, 8, 4, 1),
]


def test_equals_the_definition_under_the_interpreter() -> None:
    assert_equal_under_the_interpreter("gemm/w4a8_interpreted.py")


@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 89, 90])
@pytest.mark.parametrize("groups", [0, 1, 2, 4])
def test_main_loop_is_clean(arch: int, groups: int) -> None:
    """Registers in, INT8 MMA out: no spill, no store to shared memory, no shuffling of bytes."""
    cases = [(tile, False) for tile in TILES] + [(TILES[-1], True)] * (groups == 1)
    for tile, is_gated in cases:
        compiled = compile_for(arch, groups, tile, is_gated)
        loop = main_loop(compiled.asm["cubin"])
        opcodes = [line.split()[0].split(".")[0] for line in loop]
        where = f"sm_{arch}, {groups} groups, {tile}, {is_gated}"
        assert {"IGMMA", "IMMA"} & set(opcodes), where
        assert not {"STS", "STL", "LDL", "PRMT"} & set(opcodes), where
        assert not re.search(r"C75\d\d", assemble(compiled.asm["ptx"], arch)), where
        assert "0 bytes spill stores" in assemble(compiled.asm["ptx"], arch), where


def compile_for(  # type: ignore[no-untyped-def]
    arch: int, groups: int, tile: TileConfig, is_gated: bool
):
    constants = {
        "STEPS": 32,
        "BLOCK_M": tile.block_m,
        "BLOCK_N": tile.block_n,
        "GROUPS": groups,
        "SPLIT_K": tile.split_k,
        "HAS_BIAS": True,
        "MASK_K": False,
        "IS_GATED": is_gated,
        "ASSEMBLY": True,
        "OVERLAPS": arch >= 90,
        "NUM_THREADS": tile.num_warps * 32,
    }
    return compile_ahead(
        _w4a8_gemm_kernel,
        arch,
        POINTERS | SIZES,
        constants,
        [*POINTERS, "N", "K", "stride_x"],
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )


def small_weight() -> W4A8Weight:
    codes, scales = torch.zeros(64, 128, dtype=torch.uint8), torch.ones(64)
    return pack_per_channel(pack_codes(codes), scales, torch.zeros(64, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("codes", "scales", "message"),
    [
        (torch.zeros(2, 64, dtype=torch.int8), torch.ones(2, 1), "codes: expected int8"),
        (torch.zeros(2, 128), torch.ones(2, 1), "codes: expected int8"),
        (torch.zeros(128, 2, dtype=torch.int8).t(), torch.ones(2, 1), "contiguous rows"),
        (torch.zeros(2, 128, dtype=torch.int8), torch.ones(3, 1), "scales: expected"),
    ],
)
def test_refuses_what_does_not_match(
    codes: torch.Tensor, scales: torch.Tensor, message: str
) -> None:
    workspace = Workspace(torch.device("cpu"), 1024)
    with pytest.raises(ValueError, match=message):
        w4a8_gemm_triton(QuantizedActivations(codes, scales), small_weight(), TILES[0], workspace)


def test_refuses_group_sizes_it_cannot_stream() -> None:
    qweight, scales = torch.zeros(64, 48, dtype=torch.uint8), torch.ones(64)
    ones = torch.ones(64, 6)
    with pytest.raises(ValueError, match="group_scales"):
        pack_per_group(qweight, scales, ones.to(torch.uint8), ones.to(torch.int8))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("group_size", [128, 64, 32, -1])
@pytest.mark.parametrize("shape", [(576, 1536), (200, 576), (1152, 4096)])
def test_equals_the_definition_on_a_gpu(shape: tuple[int, int], group_size: int) -> None:
    """The same row also gives the same bits at every M."""
    from qoq.kernels.bench.gemm import random_activations, random_weight, reference

    if group_size != -1 and shape[1] % group_size:
        pytest.skip(f"groups of {group_size} do not divide K = {shape[1]}")
    operands = random_weight(*shape, group_size, 1)
    workspace = Workspace(torch.device("cuda"))
    x = random_activations(2048, shape[1])
    expected = reference(x, operands)
    for m in (1, 2, 3, 8, 15, 16, 17, 33, 64, 100, 128, 255, 256, 500, 2048):
        part = QuantizedActivations(x.codes[:m], x.scales[:m])
        for tile in TILES:
            for split_k in {1, tile.split_k, 4}:
                config = tile._replace(split_k=split_k, overlaps=m % 2 == 0)
                got = w4a8_gemm_triton(part, operands.copies[0], config, workspace)
                assert torch.equal(got, expected[:m]), (m, config)
    assert not workspace.counters.any()
