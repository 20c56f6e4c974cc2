"""No kernel leaves its tensors or races in shared memory, by compute-sanitizer.

The tool comes with the CUDA toolkit, or as the wheel ``nvidia-cuda-sanitizer-api``; it must be in
the search path.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HAS_SANITIZER = torch.cuda.is_available() and shutil.which("compute-sanitizer") is not None


@pytest.mark.slow
@pytest.mark.gpu
@pytest.mark.skipif(not HAS_SANITIZER, reason="needs a CUDA GPU and compute-sanitizer")
@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
@pytest.mark.parametrize("part", ["gemm", "fused", "attention"])
def test_is_clean(tool: str, part: str) -> None:
    """Without torch's cache a tensor is an allocation of its own, past whose end memcheck sees."""
    folder = Path(__file__).parent
    command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "1", "--print-limit", "20"]
    if tool == "memcheck":
        command += ["--padding", "512"]
    folders = [str(folder / name) for name in ("", "gemm", "attention")]
    path = os.pathsep.join(filter(None, [*folders, os.environ.get("PYTHONPATH")]))
    run = subprocess.run(
        [*command, sys.executable, "-P", str(folder / "sanitized.py"), part],
        env=os.environ | {"PYTHONPATH": path, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
