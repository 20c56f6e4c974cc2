from pathlib import Path

import pytest
import torch
from torch import Tensor

from qoq.quantize.transforms import rotation as rotation_module
from qoq.quantize.transforms.norm_folding import fold_norms
from qoq.quantize.transforms.rotation import Rotation, hadamard, rotate_layer

from .tiny_decoder import TinyDecoder

# Three Sylvester factors, Paley I (asymmetric), Paley II, Hartley.
SIZES = [128, 96, 576, 18]


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("size", [1, *SIZES, 896, 1536])
def test_hadamard_is_orthonormal(size: int):
    matrix = hadamard(size)
    assert matrix.dtype == torch.float64
    identity = torch.eye(size, dtype=torch.float64)
    assert (matrix @ matrix.T - identity).abs().max() < 1e-12


@pytest.mark.parametrize("size", SIZES)
def test_products_by_factors_are_products_with_the_matrix(size: int):
    """Both are correctly rounded from float64, up to a last bit where that lies on an edge."""
    rotation, matrix = Rotation.for_size(size), hadamard(size)
    weight = randn(5, size)
    inputs = (weight.double() @ matrix).float()
    outputs = (matrix.T @ weight.T.double()).float()
    torch.testing.assert_close(rotation.rotate_inputs(weight), inputs, rtol=2**-23, atol=1e-12)
    torch.testing.assert_close(rotation.rotate_outputs(weight.T), outputs, rtol=2**-23, atol=1e-12)


def test_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch):
    weight, rotation = randn(7, 96), Rotation.for_size(96)
    whole = rotation.rotate_inputs(weight)
    monkeypatch.setattr(rotation_module, "CHUNK_ELEMENTS", 2 * 96)
    torch.testing.assert_close(rotation.rotate_inputs(weight), whole, rtol=2**-23, atol=1e-12)


def test_an_outlier_spreads_evenly_and_zeros_stay():
    weight = torch.zeros(2, 576)
    weight[1, 7] = 1e30
    rotated = Rotation.for_size(576).rotate_inputs(weight)
    assert torch.equal(rotated[0], weight[0])
    assert torch.allclose(rotated[1].abs(), torch.tensor(1e30 / 24), rtol=1e-6)


def test_a_weight_of_another_width_is_refused():
    """Twice the size would otherwise be rotated in two blocks."""
    with pytest.raises(AssertionError):
        Rotation.for_size(64).rotate_inputs(randn(2, 128))


@pytest.mark.parametrize("norm", ["input_layernorm", "post_attention_layernorm"])
def test_a_layer_with_gains_is_refused(norm: str, tmp_path: Path):
    layer = TinyDecoder.make(tmp_path, "llama").layers[1]
    gain = layer.tensors[f"{norm}.weight"]
    fold_norms(layer)
    layer.tensors[f"{norm}.weight"] = gain
    before = dict(layer.tensors)
    with pytest.raises(ValueError, match=rf"layers\.1\.{norm}\.weight is not all ones; fold"):
        rotate_layer(layer, Rotation.for_size(64))
    assert all(layer.tensors[name] is tensor for name, tensor in before.items())
