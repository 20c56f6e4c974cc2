"""The house rules of packaging: one name for each module, nothing heavy behind a seam, short files.

Most of these read the checkout, and are skipped where the tests run against an installed wheel.
"""

import ast
import pkgutil
import re
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

import qoq.scheduler

ROOT = Path(__file__).resolve().parents[1]
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
PACKAGE_OF = {folder: package for package, folder in SETUPTOOLS["package-dir"].items()}
LIGHT = ["qoq.server.app", "qoq.engine.protocol", "qoq.engine.config"]
LIGHT += [f"qoq.scheduler.{module.name}" for module in pkgutil.iter_modules(qoq.scheduler.__path__)]

in_checkout = pytest.mark.skipif(
    not all((ROOT / folder).is_dir() for folder in PACKAGE_OF),
    reason="reads the source folders, which an installed wheel's tests do not have beside them",
)


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


@in_checkout
def test_pyproject_lists_every_package() -> None:
    """A package that is not listed imports in an editable install and is missing from the wheel."""
    in_tree = {
        ".".join([package, *path.parent.relative_to(ROOT / folder).parts])
        for folder, package in PACKAGE_OF.items()
        for path in sources(folder)
    }
    assert in_tree == set(SETUPTOOLS["packages"])


@in_checkout
@pytest.mark.parametrize("folder", PACKAGE_OF)
def test_bare_folder_name_is_not_ours(folder: str) -> None:
    """`import engine` would load our modules a second time, as strangers to the first."""
    spec = find_spec(folder)
    places = list(spec.submodule_search_locations or [str(spec.origin)]) if spec else []
    assert not any(Path(place).resolve().is_relative_to(ROOT / folder) for place in places)


@in_checkout
@pytest.mark.parametrize("folder", PACKAGE_OF)
def test_every_package_starts_with_one_docstring(folder: str) -> None:
    """An import there would load a module's neighbours, and torch with them, for whoever asks."""
    for path in {source.parent / "__init__.py" for source in sources(folder)}:
        module = ast.parse(path.read_text())
        assert ast.get_docstring(module), f"{path} has no docstring"
        assert len(module.body) == 1, f"{path} holds more than its docstring"


@pytest.mark.parametrize("module", LIGHT)
def test_import_leaves_torch_out(module: str) -> None:
    """The server and the scheduler start, and are tested, without a second's worth of torch."""
    code = f"import {module}, sys; sys.exit('torch came along' if 'torch' in sys.modules else 0)"
    run = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@in_checkout
@pytest.mark.parametrize("folder", [*PACKAGE_OF, "tests"])
def test_no_file_is_past_400_lines(folder: str) -> None:
    lengths = {str(path): len(path.read_text().splitlines()) for path in sources(folder)}
    assert {path: length for path, length in lengths.items() if length > 400} == {}


@in_checkout
def test_torch_is_pinned_alike_everywhere() -> None:
    """Development, the wheel check and the image would otherwise run on different torches."""
    files = ("Makefile", ".ci/run", "Dockerfile", "docker/compose.yaml")
    pins = {name: set(re.findall(r"torch==[\d.]+", (ROOT / name).read_text())) for name in files}
    assert len(set.union(*pins.values())) == 1, pins
    assert all(pins.values()), pins
