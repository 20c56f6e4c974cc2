"""Generated requests against the API's own document: no failure of ours, nothing undocumented."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCHEMATHESIS = (sys.executable, "-P", "-m", "schemathesis.cli")
CONFIG = Path(__file__).with_name("schemathesis.toml")


def run(url: str, folder: Path, *options: str) -> int:
    """The number of cases that were tried, all well."""
    command = [*SCHEMATHESIS, "--config-file", CONFIG, "run", f"{url}/openapi.json"]
    command += ["--checks", "all", "--seed", "7", *options]
    result = subprocess.run(command, capture_output=True, text=True, timeout=560, cwd=folder)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
    found = re.search(r"(\d+) generated", result.stdout)
    assert found, result.stdout
    return int(found[1])


@pytest.mark.slow
def test_two_thousand_requests(url: str, tmp_path: Path) -> None:
    assert run(url, tmp_path, "--max-examples", "60") >= 2000


def test_a_few_requests(url: str, tmp_path: Path) -> None:
    assert run(url, tmp_path, "--max-examples", "3", "--phases", "fuzzing") > 20
