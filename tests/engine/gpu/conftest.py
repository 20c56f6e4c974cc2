from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def returns_memory() -> Iterator[None]:
    """An engine takes all of a GPU's memory; the next test needs it."""
    yield
    gc.collect()
    torch.cuda.empty_cache()
