"""Broken checkpoints: each is refused with one sentence that names the file or the tensor."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from qoq.engine.checkpoint import Checkpoint, CheckpointError
from qoq.engine.cpu.loader import load_decoder
from qoq.engine.models.config import parse_model_config

LAYER = "model.layers.1"
Tensors = dict[str, Tensor]


@pytest.fixture
def folder(tiny_quantized: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_quantized, tmp_path / "model")


def load(folder: Path) -> None:
    checkpoint = Checkpoint(folder)
    load_decoder(checkpoint, parse_model_config(checkpoint.config), checkpoint.precision, 128)


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        load(folder)
    message = str(error.value)
    assert str(folder) in message and "\n" not in message
    return message


def change_tensors(folder: Path, change: Callable[[Tensors], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    (folder / "model.safetensors").unlink()
    save_file(tensors, folder / "model.safetensors")


def change_config(folder: Path, **fields: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_the_whole_checkpoint_loads(folder: Path):
    """So that what is refused below is refused for its damage."""
    load(folder)


def test_a_missing_folder(tmp_path: Path):
    assert "no such checkpoint folder" in refusal(tmp_path / "nowhere")


def test_a_missing_config(folder: Path):
    (folder / "config.json").unlink()
    assert "config.json: missing" in refusal(folder)


@pytest.mark.parametrize("text", [b"{", b"", b"\xff\xfe", b'{"a": 1,}'])
def test_a_config_that_is_not_json(folder: Path, text: bytes):
    (folder / "config.json").write_bytes(text)
    assert "config.json: not valid JSON" in refusal(folder)


def test_a_config_that_is_not_an_object(folder: Path):
    (folder / "config.json").write_text("[1]")
    assert "config.json: expected a JSON object" in refusal(folder)


def test_no_tensor_file(folder: Path):
    (folder / "model.safetensors").unlink()
    assert "holds no .safetensors file" in refusal(folder)


@pytest.mark.parametrize("kept", [0, 4, 1000, -1])
def test_a_truncated_tensor_file(folder: Path, kept: int):
    """A download that broke off in the length, in the header, or by the last byte."""
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    message = refusal(folder)
    assert "model.safetensors: not a readable safetensors file" in message
    assert "make the checkpoint again" in message


def test_a_tensor_file_of_noise(folder: Path):
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 10)
    assert "not a readable safetensors file" in refusal(folder)


@pytest.mark.parametrize(
    "name",
    [
        "model.embed_tokens.weight",
        "model.norm.weight",
        f"{LAYER}.input_layernorm.weight",
        f"{LAYER}.self_attn.q_proj.qweight",
        f"{LAYER}.self_attn.o_proj.scales",
        f"{LAYER}.mlp.up_proj.group_scales",
        f"{LAYER}.mlp.down_proj.group_offsets",
    ],
)
def test_a_missing_tensor(folder: Path, name: str):
    change_tensors(folder, lambda tensors: tensors.pop(name))
    assert f"tensor {name} is missing" in refusal(folder)


def test_a_tensor_of_another_shape(folder: Path):
    name = f"{LAYER}.mlp.down_proj.qweight"
    change_tensors(folder, lambda t: t.update({name: t[name][:, :-1].contiguous()}))
    assert f"tensor {name} is [64, 47], expected [64, 48]" in refusal(folder)


def test_a_config_of_another_shape(folder: Path):
    change_config(folder, vocab_size=97)
    expected = "tensor model.embed_tokens.weight is [96, 64], expected [97, 64]"
    assert expected in refusal(folder)


def test_a_tensor_of_another_dtype(folder: Path):
    name = f"{LAYER}.self_attn.k_proj.qweight"
    change_tensors(folder, lambda t: t.update({name: t[name].to(torch.int32)}))
    assert f"tensor {name} is torch.int32, expected torch.uint8" in refusal(folder)


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("group_scales", 0, "group_scales: expected values in 1..17"),
        ("group_scales", 18, "group_scales: expected values in 1..17"),
        ("group_offsets", 127, "a dequantized weight leaves the INT8 range"),
    ],
)
def test_numbers_that_the_format_does_not_allow(folder: Path, part: str, value: int, message: str):
    """They would wrap around in INT8 without a word."""
    name = f"{LAYER}.mlp.gate_proj"
    change_tensors(folder, lambda t: t[f"{name}.{part}"][0].fill_(value))
    assert f"{name}: {message}" in refusal(folder).replace("group_offsets: ", "")


@pytest.mark.parametrize(
    "entry", [{"quant_method": "awq"}, {"quant_method": "qoq", "format_version": 2}]
)
def test_another_quantization(folder: Path, entry: dict[str, object]):
    change_config(folder, quantization_config=entry)
    assert "quantize the 16-bit model with `qoq quantize`" in refusal(folder)


@pytest.mark.parametrize("fields", [{}, {"precision": "w2a8"}])
def test_a_quantization_of_no_known_precision(folder: Path, fields: dict[str, object]):
    entry = {"quant_method": "qoq", "format_version": 1} | fields
    change_config(folder, quantization_config=entry)
    assert "is not one of w4a8kv4, w8a8kv8" in refusal(folder)


def test_a_dense_dtype_that_is_not_supported(tiny_dense: Path, tmp_path: Path):
    folder = shutil.copytree(tiny_dense, tmp_path / "model")
    change_config(folder, dtype="float64")
    assert "dtype 'float64' is not supported" in refusal(folder)
