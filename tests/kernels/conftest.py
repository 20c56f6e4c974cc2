"""One torch thread, as in the engine; ``threads`` runs a test of a row's bits with two as well."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=[1, 2], ids=["1-thread", "2-threads"])
def threads(request: pytest.FixtureRequest, one_thread: None) -> int:
    """How work is cut for threads moves the tails of vector loops."""
    torch.set_num_threads(request.param)
    return request.param
