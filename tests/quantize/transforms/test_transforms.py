"""Every transform leaves the model as it was, on every architecture, and only as a whole.

What calibration would measure is random here: exactness must not depend on it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from qoq.quantize.transforms.attention_smoothing import smooth_attention
from qoq.quantize.transforms.channel_order import reorder_channels
from qoq.quantize.transforms.head_rotation import rotate_heads
from qoq.quantize.transforms.key_alignment import align_keys
from qoq.quantize.transforms.norm_folding import fold_final_norm, fold_norms
from qoq.quantize.transforms.output_smoothing import smooth_outputs
from qoq.quantize.transforms.rotation import Rotation, rotate_layer

from .tiny_decoder import FAMILIES, TOLERANCE, TinyDecoder, engine_logits, relative_error

# What a model that lost half of a transform must differ by: far above any rounding.
BROKEN = 100 * TOLERANCE


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread() -> None:
    torch.set_num_threads(1)


def positive(*shape: int) -> Tensor:
    """Log-normal maxima over about two decades; one channel is never used."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(2)).exp()
    values[..., 1] = 0
    return values


def fold(decoder: TinyDecoder) -> None:
    for layer in decoder.layers:
        fold_norms(layer)
    decoder.head = fold_final_norm(decoder.head, decoder.final_gain)
    decoder.final_gain = torch.ones_like(decoder.final_gain)


def rotate(decoder: TinyDecoder) -> None:
    rotation = Rotation.for_size(decoder.config.hidden_size)
    for layer in decoder.layers:
        rotate_layer(layer, rotation)
    decoder.embedding = rotation.rotate_inputs(decoder.embedding)
    decoder.head = rotation.rotate_inputs(decoder.head)


def rotate_values(decoder: TinyDecoder) -> None:
    for layer in decoder.layers:
        rotate_heads(layer)


def turn_keys(decoder: TinyDecoder) -> None:
    generator = torch.Generator().manual_seed(3)
    for layer in decoder.layers:
        shape = (decoder.config.num_kv_heads, decoder.config.head_dim)
        align_keys(layer, torch.randn(shape, generator=generator))


def smooth_keys(decoder: TinyDecoder) -> None:
    for layer in decoder.layers:
        key_max = positive(decoder.config.num_kv_heads, decoder.config.head_dim)
        smooth_attention(layer, key_max, alpha=0.5)


def smooth_o_proj(decoder: TinyDecoder) -> None:
    for layer in decoder.layers:
        input_max = positive(decoder.config.num_heads * decoder.config.head_dim)
        smooth_outputs(layer, "o_proj", input_max, alpha=0.3)


def smooth_down_proj(decoder: TinyDecoder) -> None:
    for layer in decoder.layers:
        input_max = positive(decoder.config.intermediate_size)
        smooth_outputs(layer, "down_proj", input_max, alpha=0.3)


def reorder_o_proj(decoder: TinyDecoder) -> None:
    for layer in decoder.layers:
        salience = positive(decoder.config.num_heads * decoder.config.head_dim)
        reorder_channels(layer, "o_proj", salience)


def reorder_down_proj(decoder: TinyDecoder) -> None:
    for layer in decoder.layers:
        reorder_channels(layer, "down_proj", positive(decoder.config.intermediate_size))


# In the paper's order.
TRANSFORMS: dict[str, Callable[[TinyDecoder], None]] = {
    "fold": fold,
    "rotate": rotate,
    "rotate-heads": rotate_values,
    "align-keys": turn_keys,
    "smooth-attention": smooth_keys,
    "smooth-o": smooth_o_proj,
    "smooth-down": smooth_down_proj,
    "reorder-o": reorder_o_proj,
    "reorder-down": reorder_down_proj,
}


def make(folder: Path, family: str, transform: str) -> TinyDecoder:
    """A model that ``transform`` can be applied to: rotation needs folded norms."""
    decoder = TinyDecoder.make(folder, family)
    if transform == "rotate":
        fold(decoder)
    return decoder


# Alignment leaves Qwen3 alone: gains cannot be turned.
CHANGES = [
    (family, transform)
    for transform in TRANSFORMS
    for family in FAMILIES
    if (family, transform) != ("qwen3-qk-norm", "align-keys")
]


@pytest.mark.parametrize(("family", "transform"), CHANGES)
def test_logits_stay(family: str, transform: str, tmp_path: Path):
    """Fails for a channel, head, bias or gain that one half of a transform treats differently."""
    decoder = make(tmp_path / "source", family, transform)
    before, tensors = decoder.logits(tmp_path / "before"), decoder.tensors()
    TRANSFORMS[transform](decoder)
    assert any(not torch.equal(tensors[name], new) for name, new in decoder.tensors().items())
    assert relative_error(decoder.logits(tmp_path / "after"), before) < TOLERANCE


@pytest.mark.parametrize("family", ["llama-biases", "qwen2-bias", "qwen3-qk-norm"])
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_logits_change_when_any_tensor_is_left_out(family: str, transform: str, tmp_path: Path):
    """So the test above sees each half: W_Q without W_K, weights without biases, and so on."""
    decoder = make(tmp_path / "source", family, transform)
    before, old = decoder.logits(tmp_path / "before"), decoder.tensors()
    TRANSFORMS[transform](decoder)
    new = decoder.tensors()
    for name in [name for name in new if not torch.equal(new[name], old[name])]:
        left_out = new | {name: old[name]}
        logits = engine_logits(decoder.fields, left_out, tmp_path / "left-out")
        assert relative_error(logits, before) > BROKEN, name


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_stay_through_all_transforms(family: str, tmp_path: Path):
    decoder = TinyDecoder.make(tmp_path / "source", family)
    before = decoder.logits(tmp_path / "before")
    for transform in TRANSFORMS.values():
        transform(decoder)
    assert relative_error(decoder.logits(tmp_path / "after"), before) < TOLERANCE
