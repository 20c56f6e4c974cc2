"""The Triton W8A8 GEMM: bit for bit under the interpreter and on a GPU, and what it compiles to."""

import re

import pytest
import torch

from qoq.kernels.quantize import QuantizedActivations

triton = pytest.importorskip("triton", reason="needs triton, which torch's CPU builds leave out")

from qoq.kernels.gpu.gemm.w4a8_config import TileConfig  # noqa: E402
from qoq.kernels.gpu.gemm.w4a8_operands import Workspace  # noqa: E402
from qoq.kernels.gpu.gemm.w8a8 import (  # noqa: E402
    _w8a8_gemm_kernel,
    w8a8_config,
    w8a8_gemm_triton,
)

from ..interpreted import assert_equal_under_the_interpreter  # noqa: E402
from ..sass import assemble, compile_ahead, main_loop  # noqa: E402
from .w4a8_cases import (  # noqa: E402
    assert_close_with_bias,
    extreme_rows,
    head,
    product,
    with_stride,
)

POINTERS = {
    "x_ptr": "*i8",
    "w_ptr": "*i8",
    "x_scale_ptr": "*fp32",
    "w_scale_ptr": "*fp32",
    "bias_ptr": "*fp16",
    "y_ptr": "*fp16",
    "partial_ptr": "*i32",
    "counter_ptr": "*i32",
}
SIZES = {"M": "i32", "N": "i32", "K": "i32", "stride_x": "i32"}


def test_equals_the_definition_under_the_interpreter() -> None:
    assert_equal_under_the_interpreter("gemm/w8a8_interpreted.py")


@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 89, 90])
def test_main_loop_is_clean(arch: int) -> None:
    for m in (16, 64, 128):
        tile = w8a8_config(m, arch)
        constants = {
            "STEPS": 32,
            "BLOCK_M": tile.block_m,
            "BLOCK_N": tile.block_n,
            "SPLIT_K": 2,
            "HAS_BIAS": True,
            "MASK_K": False,
            "OVERLAPS": tile.overlaps,
        }
        compiled = compile_ahead(
            _w8a8_gemm_kernel,
            arch,
            POINTERS | SIZES,
            constants,
            [*POINTERS, "N", "K", "stride_x"],
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
        )
        loop = main_loop(compiled.asm["cubin"])
        opcodes = {line.split()[0].split(".")[0] for line in loop}
        messages, where = assemble(compiled.asm["ptx"], arch), f"sm_{arch}, {tile}"
        assert {"IGMMA", "IMMA"} & opcodes, where
        assert not {"STS", "STL", "LDL", "PRMT"} & opcodes, where
        assert not re.search(r"C75\d\d", messages) and "0 bytes spill stores" in messages, where


@pytest.mark.parametrize(
    ("codes", "weight", "scales", "message"),
    [
        (torch.zeros(2, 128), torch.zeros(8, 128).char(), torch.ones(8), "codes: expected int8"),
        (torch.zeros(2, 64).char(), torch.zeros(8, 128).char(), torch.ones(8), "codes: expected"),
        (torch.zeros(2, 128).char(), torch.zeros(8, 128), torch.ones(8), "weight: expected"),
        (torch.zeros(2, 8).char(), torch.zeros(8, 8).char().t()[:4], torch.ones(4), "contiguous"),
        (torch.zeros(2, 128).char(), torch.zeros(8, 128).char(), torch.ones(7), "weight_scales"),
    ],
)
def test_refuses_what_does_not_match(
    codes: torch.Tensor, weight: torch.Tensor, scales: torch.Tensor, message: str
) -> None:
    x, workspace = QuantizedActivations(codes, torch.ones(2, 1)), Workspace(torch.device("cpu"), 64)
    with pytest.raises(ValueError, match=message):
        w8a8_gemm_triton(x, weight, scales, TileConfig(16, 64, 4, 3), workspace)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("shape", [(1, 128), (200, 576), (1001, 100), (4096, 4096)])
def test_equals_the_definition_on_a_gpu(shape: tuple[int, int]) -> None:
    """Extreme codes, rows that are aligned or not, and the same bits at every M."""
    x, weight, scales = operands(2048, *shape)
    expected = product(x, weight, scales).half()
    workspace = Workspace(torch.device("cuda"))
    for m in (0, 1, 2, 15, 16, 17, 64, 100, 500, 2048):
        part = with_stride(head(x, m), shape[1] + (48 if m % 2 == 0 else 1))
        for split_k in (1, 4):
            config = w8a8_config(m, 90)._replace(split_k=split_k, overlaps=m % 2 == 0)
            got = w8a8_gemm_triton(part, weight, scales, config, workspace)
            assert torch.equal(got, expected[:m]), (m, config)
    assert not workspace.counters.any()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_bias_and_output_dtype_under_a_graph(dtype: torch.dtype) -> None:
    x, weight, scales = operands(300, 584, 576)
    bias, workspace = torch.randn(584, device="cuda").to(dtype), Workspace(torch.device("cuda"))
    expected = product(x, weight, scales)
    for m in (1, 17, 300):
        args = (head(x, m), weight, scales, w8a8_config(m, 90), workspace, bias, dtype)
        eager = w8a8_gemm_triton(*args)
        assert_close_with_bias(eager, expected[:m], bias)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            got = w8a8_gemm_triton(*args)
        got.zero_()
        graph.replay()
        assert torch.equal(got, eager)


def operands(m: int, n: int, k: int) -> tuple[QuantizedActivations, torch.Tensor, torch.Tensor]:
    weight = torch.randint(-128, 128, (n, k), dtype=torch.int8, device="cuda")
    weight[::3], weight[1::3] = 127, -128
    return extreme_rows(m, k, "cuda"), weight, torch.rand(n, device="cuda")
