from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from qoq.quantize.errors import ModelSourceError
from qoq.quantize.sources.hf_source import HFSource
from qoq.quantize.sources.model_source import open_source
from qoq.quantize.sources.quantized_source import QuantizedSource, open_folder

from ...engine.tiny_model import write_tiny_model
from ..quantized_hf import (
    Format,
    awq,
    change_config,
    change_tensors,
    compressed,
    gptq,
    qserve,
    write_quantized,
)

DOWN = "model.layers.1.mlp.down_proj"
FORMATS = {
    "awq": awq(32),
    "gptq": gptq(32),
    "compressed-tensors": compressed(32, symmetric=False),
    "qserve": qserve(32),
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3"])
def test_looks_like_the_dequantized_model(tmp_path: Path, name: str, family: str):
    """The same names, shapes and other tensors as the model had before it was quantized."""
    dense = load_file(write_tiny_model(tmp_path / "dense", family) / "model.safetensors")
    linears = write_quantized(tmp_path / "model", FORMATS[name], family, intermediate_size=96)
    source = open_source(tmp_path / "model")
    assert isinstance(source, QuantizedSource)
    assert (source.method, source.group_size) == (name, 32)
    assert "quantization_config" not in source.config
    assert sorted(source.names) == sorted(dense)
    for tensor_name, tensor in dense.items():
        linear = linears.get(tensor_name.removesuffix(".weight"))
        expected = tensor if linear is None else linear.dequantize()
        assert torch.equal(source.load(tensor_name), expected), tensor_name
        assert source.shape(tensor_name) == tuple(tensor.shape)
        assert (source.quantized_weight(tensor_name) is None) is (linear is None)


def test_a_16_bit_folder_is_none(tmp_path: Path):
    assert isinstance(open_folder(write_tiny_model(tmp_path / "model")), HFSource)


@pytest.mark.parametrize(
    ("file", "name", "entry"),
    [
        ("quantize_config.json", "gptq", {"bits": 4, "group_size": 32, "desc_act": False}),
        ("quant_config.json", "awq", {"w_bit": 4, "q_group_size": 32, "version": "GEMM"}),
    ],
)
def test_finds_the_config_files_of_older_quantizers(
    tmp_path: Path, file: str, name: str, entry: dict[str, object]
):
    linears = write_quantized(tmp_path, FORMATS[name])
    change_config(tmp_path, quantization_config=None)
    (tmp_path / file).write_text(json.dumps(entry))
    source = open_source(tmp_path)
    assert torch.equal(source.load(f"{DOWN}.weight"), linears[DOWN].dequantize())


def test_a_quantized_head_is_dequantized(tmp_path: Path):
    """The head of Qwen's GPTQ models, say: vocabulary and hidden size are both 64 here."""
    linears = write_quantized(tmp_path, gptq(32), vocab_size=64)
    query = "model.layers.0.self_attn.q_proj"

    def change(tensors: dict[str, Tensor]) -> None:
        del tensors["lm_head.weight"]
        for suffix in ("qweight", "qzeros", "scales", "g_idx"):
            tensors[f"lm_head.{suffix}"] = tensors[f"{query}.{suffix}"].clone()

    change_tensors(tmp_path, change)
    source = open_source(tmp_path)
    assert torch.equal(source.load("lm_head.weight"), linears[query].dequantize())
    assert source.dtype("lm_head.weight") == torch.float16


def test_codes_of_what_is_no_linear_layer_are_named(tmp_path: Path):
    write_quantized(tmp_path, gptq(32))
    other = "model.layers.7.mlp.router"
    change_tensors(tmp_path, lambda t: t.update({f"{other}.qweight": torch.zeros(1)}))
    with pytest.raises(ModelSourceError, match=f"{other} is no linear layer of the model"):
        open_source(tmp_path).load(f"{other}.weight")


Damage = Callable[[dict[str, Tensor]], object]


def drop(suffix: str) -> Damage:
    return lambda tensors: tensors.pop(f"{DOWN}.{suffix}")


def cut(suffix: str) -> Damage:
    name = f"{DOWN}.{suffix}"
    return lambda tensors: tensors.update({name: tensors[name][:-1].clone()})


def poison(suffix: str, value: float) -> Damage:
    return lambda tensors: tensors[f"{DOWN}.{suffix}"].view(-1)[3:4].fill_(value)


def widen(suffix: str) -> Damage:
    name = f"{DOWN}.{suffix}"
    return lambda tensors: tensors.update({name: tensors[name].long()})


def cases() -> list[tuple[Format, Damage, str]]:
    parts = {
        "awq": ("qweight", "qzeros", "scales"),
        "gptq": ("qweight", "qzeros", "scales", "g_idx"),
        "compressed-tensors": ("weight_packed", "weight_zero_point", "weight_scale"),
        "qserve": ("qweight", "s1_scales", "s2_scales", "s2_zeros"),
    }
    damages: list[tuple[Format, Damage, str]] = []
    for name, (codes, *others) in parts.items():
        fmt, scale = FORMATS[name], next(part for part in others if "scale" in part)
        damages += [(fmt, cut(part), rf"{DOWN}\.{part} is \[") for part in (codes, *others)]
        damages += [
            (fmt, drop(part), rf"{DOWN}\.{part} is missing") for part in others if part != "g_idx"
        ]
        damages += [
            (fmt, poison(scale, value), rf"{DOWN}\.{scale} holds (NaN|negative)")
            for value in (float("nan"), float("inf"), -1.0)
        ]
        damages.append((fmt, widen(codes), rf"{DOWN}\.{codes} is torch.int64, expected torch.int"))
    return damages


@pytest.mark.parametrize(("fmt", "damage", "message"), cases())
def test_damage_is_answered_with_the_tensors_name(
    tmp_path: Path, fmt: Format, damage: Damage, message: str
):
    write_quantized(tmp_path, fmt)
    change_tensors(tmp_path, damage)
    with pytest.raises(ModelSourceError, match=message) as error:
        open_source(tmp_path).load(f"{DOWN}.weight")
    assert "download the model again" in str(error.value) and str(tmp_path) in str(error.value)


@pytest.mark.parametrize("name", ["awq", "gptq", "compressed-tensors"])
def test_a_layer_without_its_codes_is_missing(tmp_path: Path, name: str):
    write_quantized(tmp_path, FORMATS[name])
    codes = "weight_packed" if name == "compressed-tensors" else "qweight"
    change_tensors(tmp_path, drop(codes))
    with pytest.raises(ModelSourceError, match=rf"lacks tensor {DOWN}\.weight \(1 missing\)"):
        open_source(tmp_path)


@pytest.mark.parametrize("name", ["awq", "gptq", "compressed-tensors"])
def test_a_group_size_that_does_not_divide_is_named(tmp_path: Path, name: str):
    write_quantized(tmp_path, FORMATS[name], intermediate_size=96)
    entry = json.loads(json.dumps(FORMATS[name].entry).replace(": 32", ": 64"))
    change_config(tmp_path, quantization_config=entry)
    with pytest.raises(ModelSourceError, match=rf"{DOWN}.*group size 64 does not divide K = 96"):
        open_source(tmp_path).load(f"{DOWN}.weight")


@pytest.mark.parametrize("method", ["bitsandbytes", "qoq", None])
def test_other_methods_are_refused_by_name(tmp_path: Path, method: str | None):
    write_tiny_model(tmp_path)
    change_config(tmp_path, quantization_config={"quant_method": method})
    expected = f"already quantized by '{method}', and what can be imported is qserve, awq, gptq"
    with pytest.raises(ModelSourceError, match=expected):
        open_source(tmp_path)
