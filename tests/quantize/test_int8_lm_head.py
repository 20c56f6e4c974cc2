"""An INT8 lm_head, from quantization to logits."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from qoq.quantize.errors import ModelSourceError
from qoq.quantize.quantization_config import QuantizationConfig
from qoq.quantize.quantize import quantize_model
from qoq.quantize.recipe import Recipe

from ..engine.manual_steps import make_runner, random_tokens, run_chunks
from .tiny_hf import write_tiny_hf


@pytest.mark.parametrize("is_tied", [True, False])
def test_logits_are_those_of_the_16_bit_head_up_to_int8(tmp_path: Path, is_tied: bool) -> None:
    """Two checkpoints that differ in nothing but lm_head, run on the same tokens.

    Rounding errors of hidden states and weights are at most half a step, 1 / 254 of a row's
    largest value; over 64 products of random sign they stay far below a twentieth of a logit's
    size, while a wrong scale, row or tensor is as large as the logits themselves.
    """
    source = write_tiny_hf(tmp_path / "model", tie_word_embeddings=is_tied)
    recipes = [Recipe(group_size=32, int8_lm_head=is_int8) for is_int8 in (False, True)]
    wide, int8 = (
        quantize_model(source, tmp_path / str(index), recipe=recipe, progress=False)
        for index, recipe in enumerate(recipes)
    )
    stored = load_file(int8 / "model.safetensors")
    assert stored["lm_head.weight"].dtype == torch.int8
    assert json.loads((int8 / "config.json").read_text())["quantization_config"]["int8_lm_head"]
    tokens = random_tokens(40, 64)
    expected, got = (run_chunks(make_runner(path), tokens, [40]) for path in (wide, int8))
    error = (got - expected).norm() / expected.norm()
    assert 0 < error < 0.05


def test_rows_do_not_depend_on_their_company(tmp_path: Path) -> None:
    source = write_tiny_hf(tmp_path / "model")
    int8 = quantize_model(
        source, tmp_path / "int8", recipe=Recipe(group_size=32, int8_lm_head=True), progress=False
    )
    tokens = random_tokens(33, 64)
    whole = run_chunks(make_runner(int8), tokens, [33])
    assert torch.equal(run_chunks(make_runner(int8), tokens, [1] * 5 + [28]), whole)


def test_dense_model_has_none() -> None:
    with pytest.raises(ModelSourceError, match="INT8 lm_head"):
        QuantizationConfig("fp32", int8_lm_head=True)
