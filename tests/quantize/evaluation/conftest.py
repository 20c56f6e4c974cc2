"""Tiny models that the tests of the evaluation share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from qoq.quantize.quantize import quantize_model
from qoq.quantize.recipe import Recipe

from .tiny_chat import write_tiny_chat


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread() -> None:
    """Tiny tensors gain nothing from a team of threads."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_chat(tmp_path_factory.mktemp("tiny") / "dense")


@pytest.fixture(scope="session")
def tiny_quantized(tiny_dense: Path) -> Path:
    """Without tokenizer files of its own, were they not copied."""
    return quantize_model(
        tiny_dense, tiny_dense.parent / "w4a8kv4", recipe=Recipe(group_size=32), progress=False
    )
