"""What is read in pieces by several threads is what safetensors reads."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from qoq.engine import device_checkpoint, open_checkpoint
from qoq.engine.checkpoint import Checkpoint, CheckpointError
from qoq.engine.config import EngineConfig
from qoq.engine.device_checkpoint import DeviceCheckpoint

CPU = torch.device("cpu")
PIECE_BYTES = 1000


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_checkpoint, "PIECE_BYTES", PIECE_BYTES)


def folder_of(path: Path, *files: dict[str, Tensor]) -> Path:
    (path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    for index, tensors in enumerate(files):
        save_file(tensors, path / f"model-{index}.safetensors", metadata={"format": "pt"})
    return path


def numbers(*shape: int) -> Tensor:
    torch.manual_seed(0)
    return torch.randint(0, 256, shape, dtype=torch.uint8)


@pytest.mark.parametrize(
    "tensor",
    [
        numbers(70, 130),
        numbers(2, PIECE_BYTES),
        numbers(50, 40).view(torch.int8),
        numbers(30, 60).view(torch.float16),
        numbers(30, 60).view(torch.bfloat16),
        torch.randn(501, 3),
        torch.randn(1),
        torch.tensor(1.5),
        torch.empty(0, 4),
    ],
    ids=lambda tensor: f"{tensor.dtype} {list(tensor.shape)}".removeprefix("torch."),
)
def test_a_tensor_is_its_file_s_bits(tmp_path: Path, tensor: Tensor):
    """Between two others, so that a wrong offset shows."""
    folder = folder_of(tmp_path, {"a": numbers(77), "b": tensor, "c": numbers(33) + 1})
    read = DeviceCheckpoint(folder, CPU).tensor("b", *tensor.shape, dtype=tensor.dtype)
    assert read.shape == tensor.shape
    assert torch.equal(read.view(-1).view(torch.uint8), tensor.view(-1).view(torch.uint8))


def test_all_of_several_files(tiny_quantized: Path, tmp_path: Path):
    """Thousands of pieces, read by all threads."""
    folder = folder_of(tmp_path, {"x": numbers(300, 9999)}, {"y": numbers(300, 99) // 2})
    for path in (tiny_quantized, folder):
        expected, read = Checkpoint(path), DeviceCheckpoint(path, CPU)
        for name in expected._files:
            assert torch.equal(read._read(name), expected._read(name)), name


def test_a_read_may_give_less_than_was_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    whole = os.preadv
    monkeypatch.setattr(os, "preadv", lambda file, to, at: whole(file, [to[0][:333]], at))
    folder = folder_of(tmp_path, {"x": numbers(50, 99)})
    assert torch.equal(DeviceCheckpoint(folder, CPU).tensor("x", 50, 99), numbers(50, 99))


def test_a_file_that_was_cut_after_it_was_opened(tmp_path: Path):
    checkpoint = DeviceCheckpoint(folder_of(tmp_path, {"x": numbers(50, 99)}), CPU)
    os.truncate(tmp_path / "model-0.safetensors", 3000)
    with pytest.raises(CheckpointError, match="tensor x is unreadable: the file ends within it$"):
        checkpoint.tensor("x", 50, 99)


def test_a_file_that_went_away(tmp_path: Path):
    checkpoint = DeviceCheckpoint(folder_of(tmp_path, {"x": numbers(50, 99)}), CPU)
    (tmp_path / "model-0.safetensors").unlink()
    with pytest.raises(CheckpointError, match="tensor x is unreadable: .*No such file"):
        checkpoint.tensor("x", 50, 99)


def test_a_dtype_that_no_engine_takes(tmp_path: Path):
    checkpoint = DeviceCheckpoint(folder_of(tmp_path, {"x": torch.zeros(3).double()}), CPU)
    with pytest.raises(CheckpointError, match="tensor x is F64, expected one of U8, I8, F16, BF16"):
        checkpoint.tensor("x", 3)


def test_a_broken_file_is_refused_as_ever(tmp_path: Path):
    folder = folder_of(tmp_path, {"x": numbers(50, 99)})
    os.truncate(tmp_path / "model-0.safetensors", 4)
    with pytest.raises(CheckpointError, match="model-0.safetensors: not a readable safetensors"):
        DeviceCheckpoint(folder, CPU)


@pytest.mark.parametrize(("device", "reads"), [("cuda", True), ("cpu", False)])
def test_a_gpu_s_tensors_are_read_there(
    monkeypatch: pytest.MonkeyPatch, tiny_quantized: Path, device: str, reads: bool
):
    opened: list[torch.device] = []

    def open_on(folder: Path, device: torch.device) -> DeviceCheckpoint:
        opened.append(device)
        return DeviceCheckpoint(folder, CPU)

    monkeypatch.setattr(open_checkpoint, "DeviceCheckpoint", open_on)
    open_checkpoint.open_checkpoint(EngineConfig(model=tiny_quantized), torch.device(device))
    assert opened == [torch.device(device)] * reads


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_bits_arrive_on_a_gpu(tmp_path: Path):
    """While it computes, into memory that was just given back."""
    tensors = {f"t{index}": numbers(3000, 999) + index for index in range(20)}
    checkpoint = DeviceCheckpoint(folder_of(tmp_path, tensors), torch.device("cuda"))
    for name, tensor in tensors.items():
        read = checkpoint.tensor(name, *tensor.shape)
        assert read.is_cuda and torch.equal(read.cpu(), tensor)
        read.copy_(torch.randn(3000, 999, device="cuda").cumsum(0))
