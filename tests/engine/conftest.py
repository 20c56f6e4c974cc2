"""Checkpoints that the engine's tests share: tiny random ones, and the default model."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from qoq.quantize.errors import ModelSourceError
from qoq.quantize.quantize import quantize_model
from qoq.quantize.recipe import Recipe
from qoq.quantize.resolve import default_cache_dir, resolve_model

from .tiny_model import write_tiny_model


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread() -> None:
    """An engine computes in a thread of its own, and a second OpenMP team on the same cores makes
    both wait (see ``build_engine``). Tiny tensors gain nothing from a team either."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "dense")


@pytest.fixture(scope="session")
def tiny_quantized(tiny_dense: Path) -> Path:
    return quantize_model(
        tiny_dense, tiny_dense.parent / "w4a8kv4", recipe=Recipe(group_size=32), progress=False
    )


@pytest.fixture(scope="session")
def smollm2_quantized() -> Path:
    """``QOQ_TEST_SMOLLM2`` names its folder on a machine that cannot fetch and quantize it."""
    named = os.environ.get("QOQ_TEST_SMOLLM2")
    return Path(named) if named else _smollm2("w4a8kv4")


@pytest.fixture(scope="session")
def smollm2_dense() -> Path:
    return _smollm2("fp32")


def _smollm2(precision: str) -> Path:
    try:
        return resolve_model(
            "smollm2-135m-instruct",
            precision=precision,
            recipe="rtn",
            cache_dir=default_cache_dir(),
            progress=False,
        )
    except ModelSourceError as error:
        pytest.skip(f"the default model cannot be fetched: {error}")
