from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from qoq.quantize.errors import ModelSourceError
from qoq.quantize.sources.pickled_folder import PickledFolder


def test_reads_all_files_of_a_folder(tmp_path: Path):
    torch.save({"a": torch.ones(2, 3).half()}, tmp_path / "one.bin")
    torch.save({"b": torch.zeros(4, dtype=torch.int8)}, tmp_path / "two.bin")
    folder = PickledFolder(tmp_path)
    assert folder.names == ["a", "b"]
    assert (folder.shape("a"), folder.dtype_code("a")) == ((2, 3), "F16")
    assert folder.dtype_code("b") == "torch.int8"
    assert torch.equal(folder.load("a"), torch.ones(2, 3).half())


class RunsCode:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("ran",)


def test_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": RunsCode()}, tmp_path / "model.bin")
    with pytest.raises(ModelSourceError, match=r"model\.bin does not open as a file of tensors"):
        _ = PickledFolder(tmp_path).names
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kept", [0, 10, 500])
def test_a_truncated_file_is_named(tmp_path: Path, kept: int):
    torch.save({"a": torch.ones(1000)}, tmp_path / "model.bin")
    content = (tmp_path / "model.bin").read_bytes()
    (tmp_path / "model.bin").write_bytes(content[:kept])
    with pytest.raises(ModelSourceError, match=r"model\.bin does not open.*download it again") as e:
        _ = PickledFolder(tmp_path).names
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("content", [[torch.ones(1)], {"a": 1}])
def test_what_is_no_table_of_tensors_is_refused(tmp_path: Path, content: object):
    torch.save(content, tmp_path / "model.bin")
    with pytest.raises(ModelSourceError, match="holds other things than tensors; save the model"):
        _ = PickledFolder(tmp_path).names
