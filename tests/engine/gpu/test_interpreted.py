"""The GPU engine without a GPU: files of tests that pytest runs under Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="needs triton, which torch's CPU builds leave out")


def run_interpreted(*names: str) -> None:
    """In a process of its own, since the interpreter is chosen when triton is imported."""
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short"]
    run = subprocess.run(
        [*command, *(str(Path(__file__).with_name(name)) for name in names)],
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]


@pytest.mark.slow
def test_logits_equal_float64_s():
    run_interpreted("interpreted_numbers.py")


@pytest.mark.slow
def test_what_steps_look_like_changes_no_bit():
    run_interpreted("interpreted_steps.py")


def test_the_device_is_told_of_each_token_and_what_it_samples_is_the_definition_s():
    run_interpreted("interpreted_inputs.py", "interpreted_sampling.py")
