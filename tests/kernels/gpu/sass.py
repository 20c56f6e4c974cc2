"""What a Triton kernel becomes for a GPU that this machine need not have: its machine code."""

from __future__ import annotations

import re
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource
from triton.experimental.gluon._runtime import GluonASTSource, GluonJITFunction

from qoq.kernels.gpu import triton_versions  # noqa: F401  # says whether products and sums fuse


def compile_ahead(
    kernel: Any,
    arch: int,
    signature: dict[str, str],
    constants: dict[str, Any],
    aligned: list[str],
    **options: int,
) -> Any:
    """``signature`` has the types of what is no constant; ``aligned`` are multiples of 16."""
    names = kernel.arg_names
    attrs = {(names.index(name),): [["tt.divisibility", 16]] for name in aligned}
    types = {name: signature.get(name, "constexpr") for name in names}
    kind = GluonASTSource if isinstance(kernel, GluonJITFunction) else ASTSource
    source = kind(kernel, types, constants, attrs=attrs)
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)


def main_loop(cubin: bytes) -> list[str]:
    """The instructions of the innermost loop that multiplies."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        sass = subprocess.run(
            [knobs.nvidia.cuobjdump.path, "-sass", file.name],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    found = re.findall(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?(.*?);", sass)
    lines = [(int(address, 16), text) for address, text in found]
    places = {address: index for index, (address, _) in enumerate(lines)}
    loops = []
    for index, (address, text) in enumerate(lines):
        jump = re.match(r"BRA\S*\s.*?(0x[0-9a-f]+)", text)
        if jump and int(jump[1], 16) < address:
            loops.append([line for _, line in lines[places[int(jump[1], 16)] : index + 1]])
    return min((loop for loop in loops if _multiplies(loop)), key=len)


def _multiplies(loop: list[str]) -> bool:
    """What spans an exit is no loop: a wait was placed behind the kernel and jumps back."""
    return any("MMA" in line for line in loop) and not any("EXIT" in line for line in loop)


@cache
def assemble(ptx: str, arch: int) -> str:
    """What ptxas says of the kernel."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(ptx)
        name = f"sm_{arch}" + "a" * (arch == 90)
        options = ["-v", f"--gpu-name={name}", "-o", f"{folder}/out"]
        command = [get_ptxas(arch).path, *options, str(path)]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
    return run.stdout + run.stderr
