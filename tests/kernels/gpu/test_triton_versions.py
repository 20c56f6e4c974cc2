"""Kernels compile with every Triton from 3.6 on, of which one is installed here."""

import ast
import importlib
import inspect
import pkgutil
import runpy
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("triton", reason="needs triton, which torch's CPU builds leave out")

from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import tma

from qoq.kernels import gpu
from qoq.kernels.gpu import triton_versions

# Names in 3.6.0 of which 3.9.0 has none, or one that raises an error.
GONE = {
    "_reinterpret",
    "advance",
    "async_copy_global_to_shared",
    "async_copy_shared_to_global",
    "thread_barrier",
}
MODULES = [
    importlib.import_module(found.name)
    for found in pkgutil.walk_packages(gpu.__path__, f"{gpu.__name__}.")
]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_names_are_those_of_every_version(module: ModuleType) -> None:
    """What another version calls differently, or lacks, has its place in ``triton_versions``."""
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.Attribute):
            assert node.attr not in GONE or module is triton_versions, node.attr
            holder = isinstance(node.value, ast.Name) and getattr(module, node.value.id, None)
            if inspect.ismodule(holder) and holder.__name__.startswith("triton."):
                assert hasattr(holder, node.attr) or module is triton_versions, node.attr


@pytest.mark.parametrize(
    ("language", "newer", "name"),
    [
        (gl, "barrier", "thread_barrier"),
        (tma, "async_load", "async_load"),
        (tma, "async_store", "async_store"),
    ],
)
def test_a_newer_name_is_preferred(
    language: Any, newer: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The older one may be there still and raise an error."""
    monkeypatch.setattr(language, newer, object(), raising=False)
    assert triton_versions.__file__
    assert runpy.run_path(triton_versions.__file__)[name] is getattr(language, newer)
