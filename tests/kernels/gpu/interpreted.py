"""Runs a script of this folder under Triton's interpreter, chosen when triton is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def assert_equal_under_the_interpreter(script: str) -> None:
    """``script`` by its path from this folder, from which it may import too."""
    folder = Path(__file__).parent
    path = folder / script
    imported = f"{path.parent}{os.pathsep}{folder}"
    run = subprocess.run(
        [sys.executable, "-P", str(path)],
        env=os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": imported},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert run.stdout.strip() == "equal", run.stderr[-2000:]
