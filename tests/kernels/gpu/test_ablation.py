"""The kernels of the ablation compute what they should, and still take away what they should."""

from typing import Any

import pytest

triton = pytest.importorskip("triton", reason="needs triton, which torch's CPU builds leave out")

from qoq.kernels.bench.ablation_kernels import (  # noqa: E402
    float_groups_kernel,
    rows_as_stored_kernel,
)
from qoq.kernels.gpu.gemm.w4a8_config import portable_config  # noqa: E402
from qoq.kernels.gpu.gemm.w4a8_triton import _w4a8_gemm_kernel  # noqa: E402

from .interpreted import assert_equal_under_the_interpreter  # noqa: E402
from .sass import assemble, compile_ahead, main_loop  # noqa: E402

TYPES = {
    "x_ptr": "*i8",
    "w_ptr": "*u8",
    "group_ptr": "*i32",
    "x_scale_ptr": "*fp32",
    "w_scale_ptr": "*fp32",
    "x_sum_ptr": "*i8",
    "zero_ptr": "*i8",
    "bias_ptr": "*i8",
    "y_ptr": "*fp16",
    "partial_ptr": "*i32",
    "counter_ptr": "*i32",
    "M": "i32",
    "N": "i32",
    "K": "i32",
    "stride_x": "i32",
    "stride_w": "i32",
}
FLOATS = {"group_ptr": "*fp32", "partial_ptr": "*fp32"}
SERVING = {"GROUPS": 1, "HAS_BIAS": False, "MASK_K": False, "OVERLAPS": False, "NUM_THREADS": 128}
IN_REGISTERS, BYTES = {"ASSEMBLY": True}, {"ASSEMBLY": False}


def test_equal_their_definitions_under_the_interpreter() -> None:
    assert_equal_under_the_interpreter("ablation_interpreted.py")


@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 89, 90])
def test_each_lacks_one_thing(arch: int) -> None:
    """By what is in the loop that the serving kernel keeps out of it. None spills."""
    for m in (16, 256):
        assert not {"PRMT", "FFMA"} & opcodes(_w4a8_gemm_kernel, arch, m, SERVING | IN_REGISTERS)
        assert "PRMT" in opcodes(_w4a8_gemm_kernel, arch, m, SERVING | BYTES)
        assert "PRMT" in opcodes(rows_as_stored_kernel, arch, m, {})
        found = opcodes(float_groups_kernel, arch, m, IN_REGISTERS, FLOATS)
        assert "FFMA" in found and "PRMT" not in found


def opcodes(
    kernel: Any, arch: int, m: int, constants: dict[str, Any], types: dict[str, str] | None = None
) -> set[str]:
    tile = portable_config(m, arch)
    used = {
        name: kind for name, kind in (TYPES | (types or {})).items() if name in kernel.arg_names
    }
    sizes = {
        "STEPS": 32 // tile.split_k,
        "BLOCK_M": tile.block_m,
        "BLOCK_N": tile.block_n,
        "SPLIT_K": tile.split_k,
    }
    compiled = compile_ahead(
        kernel,
        arch,
        used,
        sizes | constants,
        [name for name in used if name != "M"],
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )
    assert "0 bytes spill stores" in assemble(compiled.asm["ptx"], arch), (kernel, tile)
    return {line.split()[0].split(".")[0] for line in main_loop(compiled.asm["cubin"])}
