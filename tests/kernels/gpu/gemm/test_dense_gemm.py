"""The dense Triton GEMM: close to float64, the same bits at every M, and what it compiles to."""

import re

import pytest
import torch

triton = pytest.importorskip("triton", reason="needs triton, which torch's CPU builds leave out")

from qoq.kernels.gpu.gemm.dense_gemm import (  # noqa: E402
    STEP,
    _dense_gemm_kernel,
    dense_config,
    dense_gemm_triton,
)
from qoq.kernels.gpu.gemm.w4a8_config import TileConfig  # noqa: E402

from ..interpreted import assert_equal_under_the_interpreter  # noqa: E402
from ..sass import assemble, compile_ahead, main_loop  # noqa: E402
from .dense_cases import assert_within_bounds, strided_rows  # noqa: E402

SIZES = {"M": "i32", "N": "i32", "K": "i32", "stride_x": "i32"}
MS = (1, 2, 3, 8, 15, 16, 17, 33, 64, 100, 128, 255, 256, 500, 2048)


def tiles(arch: int) -> set[TileConfig]:
    return {dense_config(m, arch) for m in MS}


def test_is_within_bounds_under_the_interpreter() -> None:
    assert_equal_under_the_interpreter("gemm/dense_interpreted.py")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("arch", [80, 89, 90])
def test_all_tiles_use_one_instruction(arch: int, dtype: str) -> None:
    """What makes a row's bits the same in every tile: one class of instruction, 16 channels deep,
    K in one order. And the loop is clean.
    """
    expected = r"HGMMA\.64x\d+x16\.F32" if arch == 90 else r"HMMA\.16816\.F32"
    for tile in tiles(arch):
        compiled = compile_for(arch, dtype, tile)
        loop = main_loop(compiled.asm["cubin"])
        products = [line.split()[0] for line in loop if "MMA" in line]
        messages, where = assemble(compiled.asm["ptx"], arch), f"sm_{arch}, {tile}"
        assert products and all(re.match(expected, name) for name in products), where
        opcodes = {line.split()[0].split(".")[0] for line in loop}
        assert not {"STS", "STL", "LDL", "FADD", "FFMA"} & opcodes, where
        assert not re.search(r"C75\d\d", messages) and "0 bytes spill stores" in messages, where


def compile_for(arch: int, dtype: str, tile: TileConfig):  # type: ignore[no-untyped-def]
    pointers = dict.fromkeys(("x_ptr", "w_ptr", "bias_ptr"), f"*{dtype}") | {"y_ptr": "*fp32"}
    constants = {
        "STEPS": 64,
        "BLOCK_M": tile.block_m,
        "BLOCK_N": tile.block_n,
        "BLOCK_K": STEP,
        "HAS_BIAS": False,
        "MASK_K": False,
        "OVERLAPS": tile.overlaps,
    }
    return compile_ahead(
        _dense_gemm_kernel,
        arch,
        pointers | SIZES,
        constants,
        [*pointers, "N", "K", "stride_x"],
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )


def test_refuses_what_does_not_match() -> None:
    x, weight = torch.zeros(2, 64).half(), torch.zeros(8, 64).half()
    tile = TileConfig(16, 64, 4, 3)
    cases = [
        ("weight: expected fp16", x, weight.float(), tile, None),
        ("weight: expected contiguous", x[:, :8], weight[:, :8], tile, None),
        ("x: expected", x[:, 1:], weight, tile, None),
        ("x: expected", x.bfloat16(), weight, tile, None),
        ("x: expected contiguous rows", weight.repeat(8, 1).t(), weight, tile, None),
        ("bias: expected", x, weight, tile, torch.zeros(7)),
        ("config: expected", x, weight, tile._replace(split_k=2), None),
        ("config: expected", x, weight, tile._replace(block_n=32), None),
    ]
    for message, *operands in cases:
        with pytest.raises(ValueError, match=message):
            dense_gemm_triton(*operands)


def test_no_tokens() -> None:
    y = dense_gemm_triton(torch.zeros(0, 64).half(), torch.zeros(8, 64).half(), dense_config(0, 90))
    assert y.shape == (0, 8) and y.dtype == torch.float32


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((49152, 576), torch.bfloat16),
        ((200, 576), torch.float16),
        ((4104, 4096), torch.bfloat16),
        ((136, 100), torch.float16),
    ],
)
def test_same_bits_at_every_m_on_a_gpu(shape: tuple[int, int], dtype: torch.dtype) -> None:
    """Rows in other places, in other company, in every tile."""
    from qoq.kernels.bench.gemm import device_arch

    n, k = shape
    x, weight = strided_rows(2048, k, dtype, "cuda"), torch.randn(n, k, device="cuda").to(dtype)
    whole = dense_gemm_triton(x, weight, dense_config(2048, device_arch()))
    assert_within_bounds(whole[:256], x[:256], weight, None)
    for m in MS:
        picked = torch.randperm(2048, device="cuda")[:m]
        part = x[picked]
        every = tiles(device_arch()) if m in (1, 100, 2048) else [dense_config(m, device_arch())]
        for tile in every:
            got = dense_gemm_triton(part, weight, tile)
            assert torch.equal(got, whole[picked]), (m, tile)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("out_dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_bias_and_dtypes_under_a_cuda_graph(out_dtype: torch.dtype) -> None:
    from qoq.kernels.bench.gemm import device_arch

    for m in (1, 40, 300):
        x = strided_rows(m, 576, torch.bfloat16, "cuda")
        weight, bias = torch.randn(1000, 576, device="cuda"), torch.randn(1000, device="cuda")
        tile, weight = dense_config(m, device_arch()), weight.bfloat16()
        eager = dense_gemm_triton(x, weight, tile, bias, out_dtype)
        assert_within_bounds(eager, x, weight, bias)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            got = dense_gemm_triton(x, weight, tile, bias, out_dtype)
        got.zero_()
        graph.replay()
        assert torch.equal(got, eager)
