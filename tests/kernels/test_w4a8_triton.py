"""The Triton W4A8 GEMM: bit for bit under the interpreter and on a GPU, and what it compiles to."""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from qoq.kernels.packing import pack_codes
from qoq.kernels.quantize import QuantizedActivations
from qoq.kernels.w4a8_weight import W4A8Weight, pack_per_channel, pack_per_group

triton = pytest.importorskip("triton", reason="needs triton, which torch's CPU builds leave out")

from qoq.kernels.w4a8_triton import (  # noqa: E402
    TileConfig,
    Workspace,
    _w4a8_gemm_kernel,
    w4a8_gemm_triton,
)

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
    """The interpreter is chosen when triton is imported, hence the process."""
    script = Path(__file__).with_name("w4a8_interpreted.py")
    run = subprocess.run(
        [sys.executable, "-P", str(script)],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert run.stdout.strip() == "equal", run.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 89, 90])
@pytest.mark.parametrize("groups", [0, 1, 2, 4])
def test_main_loop_is_clean(arch: int, groups: int) -> None:
    """Registers in, INT8 MMA out: no spill, no store to shared memory, no shuffling of bytes."""
    for tile in TILES:
        compiled = compile_for(arch, groups, tile)
        loop = main_loop(compiled.asm["cubin"])
        opcodes = [line.split()[0].split(".")[0] for line in loop]
        where = f"sm_{arch}, {groups} groups, {tile}"
        assert {"IGMMA", "IMMA"} & set(opcodes), where
        assert not {"STS", "STL", "LDL", "PRMT"} & set(opcodes), where
        assert not re.search(r"C75\d\d", assemble(compiled.asm["ptx"], arch)), where
        assert "0 bytes spill stores" in assemble(compiled.asm["ptx"], arch), where


def compile_for(arch: int, groups: int, tile: TileConfig):  # type: ignore[no-untyped-def]
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    constants = {
        "STEPS": 32,
        "BLOCK_M": tile.block_m,
        "BLOCK_N": tile.block_n,
        "GROUPS": groups,
        "SPLIT_K": tile.split_k,
        "HAS_BIAS": True,
        "MASK_K": False,
        "ASSEMBLY": True,
        "OVERLAPS": arch >= 90,
        "NUM_THREADS": tile.num_warps * 32,
    }
    names = _w4a8_gemm_kernel.arg_names
    signature = {name: (POINTERS | SIZES).get(name, "constexpr") for name in names}
    aligned = [*POINTERS, "N", "K", "stride_x"]
    attrs = {(names.index(name),): [["tt.divisibility", 16]] for name in aligned}
    source = ASTSource(_w4a8_gemm_kernel, signature, constants, attrs=attrs)
    options = {"num_warps": tile.num_warps, "num_stages": tile.num_stages}
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)


def tool(name: str) -> str:
    return str(Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name)


def main_loop(cubin: bytes) -> list[str]:
    """The instructions of the innermost loop that multiplies."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        sass = subprocess.run(
            [tool("cuobjdump"), "-sass", file.name], capture_output=True, text=True, check=True
        ).stdout
    found = re.findall(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?(.*?);", sass)
    lines = [(int(address, 16), text) for address, text in found]
    places = {address: index for index, (address, _) in enumerate(lines)}
    loops = []
    for index, (address, text) in enumerate(lines):
        jump = re.match(r"BRA\S*\s.*?(0x[0-9a-f]+)", text)
        if jump and int(jump[1], 16) < address:
            loops.append([line for _, line in lines[places[int(jump[1], 16)] : index + 1]])
    return min((loop for loop in loops if any("MMA" in line for line in loop)), key=len)


def assemble(ptx: str, arch: int) -> str:
    """What ptxas says of the kernel."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(ptx)
        name = f"sm_{arch}" + "a" * (arch == 90)
        command = [tool("ptxas"), "-v", f"--gpu-name={name}", str(path), "-o", f"{folder}/out"]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
    return run.stdout + run.stderr


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
