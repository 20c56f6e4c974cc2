"""Runs a script of this folder under Triton's interpreter, chosen when triton is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def assert_equal_under_the_interpreter(script: str) -> None:
    folder = Path(__file__).parent
    run = subprocess.run(
        [sys.executable, "-P", str(folder / script)],
        env=os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert run.stdout.strip() == "equal", run.stderr[-2000:]
