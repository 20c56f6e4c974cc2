"""Runs ``openai_client.mjs`` in a folder that has OpenAI's Node client."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("openai_client.mjs")
PACKAGES = ("openai@6", "zod@4")


@dataclass(frozen=True, slots=True)
class NodeClient:
    folder: Path

    @classmethod
    def install(cls, folder: Path) -> NodeClient:
        """From npm. Skips the test where that cannot be."""
        if not (shutil.which("node") and shutil.which("npm")):
            pytest.skip("needs node and npm")
        command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder), *PACKAGES]
        installing = subprocess.run(command, capture_output=True, text=True, timeout=300)
        if installing.returncode:
            pytest.skip(f"npm cannot fetch {' and '.join(PACKAGES)}: {installing.stderr[-300:]}")
        shutil.copy(SCRIPT, folder)
        return cls(folder)

    def run(self, base_url: str, use: str) -> Any:
        """What the script prints of that use."""
        command = ["node", SCRIPT.name, base_url, use]
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=60, cwd=self.folder
        )
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)
