import json
import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from qoq.quantize.checkpoint import CheckpointWriter


def write_layers(folder: Path, num_layers: int, shard_bytes: int) -> dict[str, torch.Tensor]:
    writer = CheckpointWriter(folder, shard_bytes)
    tensors = {f"layer.{i}": torch.full((100,), float(i)) for i in range(num_layers)}
    for name, tensor in tensors.items():
        writer.add({name: tensor})
        writer.end_layer()
    writer.finish()
    return tensors


def test_a_small_model_is_one_file(tmp_path: Path):
    tensors = write_layers(tmp_path, 3, shard_bytes=1 << 20)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    loaded = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


def test_a_large_model_is_sharded_and_indexed(tmp_path: Path):
    tensors = write_layers(tmp_path, 5, shard_bytes=800)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 2000
    assert sorted(set(index["weight_map"].values())) == [
        "model-00001-of-00003.safetensors",
        "model-00002-of-00003.safetensors",
        "model-00003-of-00003.safetensors",
    ]
    for name, file in index["weight_map"].items():
        assert torch.equal(load_file(tmp_path / file)[name], tensors[name])


def test_files_have_the_permissions_of_any_other(tmp_path: Path):
    write_layers(tmp_path, 1, shard_bytes=1)
    (tmp_path / "other").touch()
    modes = {stat.S_IMODE(os.stat(path).st_mode) for path in tmp_path.iterdir()}
    assert len(modes) == 1


def test_a_folder_that_cannot_be_written_is_an_os_error(tmp_path: Path):
    with pytest.raises(OSError):
        write_layers(tmp_path / "gone", 1, shard_bytes=1)
