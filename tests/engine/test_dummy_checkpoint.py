"""Random weights must be ones that a quantizer could have made."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from qoq.engine.checkpoint import CheckpointError
from qoq.engine.config import EngineConfig
from qoq.engine.dummy_checkpoint import PER_CHANNEL, DummyCheckpoint, shape_names
from qoq.engine.llm import LLM
from qoq.engine.models.config import parse_model_config
from qoq.engine.protocol import SamplingParams

from .tiny_model import write_tiny_model

CPU = torch.device("cpu")
N, K = 64, 512


def read_group_weights(name: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    source = DummyCheckpoint(Path("llama-3-8b"), 128, CPU)
    codes = source.tensor(f"{name}.qweight", N, K // 2, dtype=torch.uint8)
    scales = source.tensor(f"{name}.group_scales", N, -1, dtype=torch.uint8)
    offsets = source.tensor(f"{name}.group_offsets", *scales.shape, dtype=torch.int8)
    return codes, scales, offsets


def test_codes_are_legal_and_centered():
    """``q * s + b`` must be an int8 at both ends of q; a weight's mean must not add up over K."""
    codes, scales, offsets = read_group_weights("model.layers.0.mlp.up_proj")
    assert scales.shape == offsets.shape == (N, K // 128)
    assert scales.min() >= 1 and scales.max() <= 17
    assert offsets.min() >= -128 and (15 * scales.int() + offsets.int()).max() <= 127
    assert (7.5 * scales + offsets).abs().max() <= 0.5
    assert codes.float().mean() == pytest.approx(127.5, abs=4 * 74 / codes.numel() ** 0.5)


def test_outputs_keep_the_variance_of_inputs():
    codes, scales, offsets = read_group_weights("model.layers.0.mlp.up_proj")
    source = DummyCheckpoint(Path("llama-3-8b"), 128, CPU)
    source.tensor("x.qweight", N, K // 2, dtype=torch.uint8)
    row_scales = source.tensor("x.scales", N, dtype=torch.float32)
    nibbles = torch.stack((codes % 16, codes // 16), dim=2).view(N, K // 128, 128)
    weights = (nibbles * scales[..., None].float() + offsets[..., None]).view(N, K)
    weights *= row_scales[:, None]
    output = weights @ torch.randn(K, 256, generator=torch.Generator().manual_seed(0))
    assert 0.5 < output.std() < 2.0


def test_biases_only_where_the_architecture_has_them():
    llama = DummyCheckpoint(Path("llama-3-8b"), 128, CPU)
    qwen = DummyCheckpoint(Path("qwen1.5-72b"), 128, CPU)
    name = "model.layers.0.self_attn.{}_proj.bias"
    assert not any(name.format(part) in llama for part in "qkvo")
    assert [name.format(part) in qwen for part in "qkvo"] == [True] * 3 + [False]


@pytest.mark.parametrize("name", shape_names())
def test_shapes_are_of_models_that_the_engine_has(name: str):
    """And 128, the group size, divides every K."""
    model = parse_model_config(DummyCheckpoint(Path(name), 128, CPU).config)
    heads = model.num_heads * model.head_dim
    assert not any(k % 128 for k in (model.hidden_size, model.intermediate_size, heads))


@pytest.mark.parametrize("load_format", ["dummy", "dummy-per-channel"])
@pytest.mark.parametrize("precision", ["w4a8kv4", "w8a8kv8"])
@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3"])
def test_the_loader_finds_every_tensor(
    family: str, precision: str, load_format: str, tmp_path: Path
):
    folder = write_tiny_model(tmp_path / "m", family, hidden_size=128, intermediate_size=256)
    (folder / "model.safetensors").unlink()
    llm = LLM(
        EngineConfig(
            model=folder,
            device="cpu",
            load_format=load_format,
            precision=precision,
            kv_cache_bytes=2**22,
            num_threads=1,
        )
    )
    (done,) = llm.generate([[1, 2, 3]], SamplingParams(max_tokens=3, temperature=0.0))
    llm.close()
    assert len(done.token_ids) == 3


def test_per_channel_has_no_groups():
    source = DummyCheckpoint(Path("llama-3-8b"), PER_CHANNEL, CPU)
    assert "x.zeros" in source and "x.zeros" not in DummyCheckpoint(Path("llama-3-8b"), 128, CPU)
    assert set(source.tensor("x.zeros", 100, dtype=torch.uint8).tolist()) <= set(range(16))


def test_a_shape_that_nobody_knows_is_refused_with_those_that_are():
    with pytest.raises(CheckpointError, match="llama-9.*llama-2-70b, llama-2-7b, llama-3-8b"):
        DummyCheckpoint(Path("llama-9"), 128, CPU)
