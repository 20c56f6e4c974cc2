from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Quant

from qoq.quantize.errors import ModelSourceError
from qoq.quantize.sources.gguf_file import (
    BLOCK_QUANTS,
    SUPPORTED_QUANTS,
    GGUFFile,
)

from ..tiny_gguf import add_tensor, finish, write_tiny_gguf


def write_one_tensor(path: Path, data: np.ndarray, quant: Quant) -> GGUFFile:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("x", data, raw_dtype=quant)
    finish(writer)
    return GGUFFile(path)


@pytest.mark.parametrize("quant", [*BLOCK_QUANTS, Quant.F16, Quant.BF16])
def test_restores_weights_within_the_step_of_their_type(tmp_path: Path, quant: Quant):
    weight = torch.randn(8, 256, generator=torch.Generator().manual_seed(0))
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    add_tensor(writer, "x", weight, quant)
    finish(writer)
    file = GGUFFile(tmp_path / "x.gguf")
    # A block of 32 spans at most 2 * max in 2^bits - 1 steps; half a step, and one more for types
    # that clip one end of a symmetric range.
    bits = {"F16": 10, "BF16": 8}.get(quant.name) or int(quant.name[1])
    span = 2 * weight.abs().max()
    loaded = file.load("x")
    assert loaded.dtype == torch.float32
    assert (loaded - weight).abs().max() <= 1.6 * span / (2**bits - 1)
    assert file.shape("x") == (8, 256)


@pytest.mark.parametrize("quant", [q for q in SUPPORTED_QUANTS if q.value > 1])
def test_agrees_with_the_gguf_package_on_random_blocks(tmp_path: Path, quant: Quant):
    block_size, type_size = gguf.GGML_QUANT_SIZES[quant]
    generator = np.random.default_rng(3)
    # Bytes below 0x3C keep every half float in any field finite.
    data = generator.integers(0, 0x3C, (4, 512 // block_size * type_size), dtype=np.uint8)
    loaded = write_one_tensor(tmp_path / "x.gguf", data, quant).load("x")
    assert torch.equal(loaded, torch.from_numpy(gguf.dequantize(data, quant)))
    assert loaded.shape == (4, 512) and loaded.std() > 0


def test_reads_metadata_as_python_values(tmp_path: Path):
    write_tiny_gguf(tmp_path / "x.gguf")
    file = GGUFFile(tmp_path / "x.gguf")
    assert file.metadata("llama.attention.layer_norm_rms_epsilon") == 1e-05
    assert file.metadata("tokenizer.ggml.tokens")[-1] == "<|im_end|>"
    assert file.metadata("nothing", 3) == 3
    with pytest.raises(ModelSourceError, match="has no metadata 'nothing'"):
        file.require("nothing")


def test_refuses_types_it_cannot_restore(tmp_path: Path):
    _, type_size = gguf.GGML_QUANT_SIZES[Quant.IQ2_XXS]
    data = np.zeros((1, type_size), dtype=np.uint8)
    file = write_one_tensor(tmp_path / "x.gguf", data, Quant.IQ2_XXS)
    with pytest.raises(ModelSourceError, match="tensor x is IQ2_XXS; supported are F32, F16"):
        file.load("x")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.999])
def test_a_truncated_file_is_named_in_one_sentence(tmp_path: Path, share: float):
    write_tiny_gguf(tmp_path / "x.gguf")
    content = (tmp_path / "x.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ModelSourceError, match=r"cut\.gguf is not a whole GGUF file"):
        GGUFFile(tmp_path / "cut.gguf")


def test_refuses_missing_files_and_parts_of_split_files(tmp_path: Path):
    with pytest.raises(ModelSourceError, match=r"gone\.gguf cannot be read: No such file"):
        GGUFFile(tmp_path / "gone.gguf")
    write_tiny_gguf(tmp_path / "part.gguf", extra=lambda w: w.add_uint16("split.count", 2))
    with pytest.raises(ModelSourceError, match="one part of a split GGUF"):
        GGUFFile(tmp_path / "part.gguf")
