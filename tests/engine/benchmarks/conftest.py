from __future__ import annotations

from pathlib import Path

import pytest
import torch

from .shapes import write_shape


@pytest.fixture(autouse=True)
def needs_a_gpu(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")


@pytest.fixture(scope="session")
def shape(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shape(tmp_path_factory.mktemp("shapes") / "tiny")
