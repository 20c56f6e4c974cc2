from pathlib import Path

import pytest
from safetensors.torch import load_file

from qoq.engine.benchmarks.model_size import ModelSize, model_size
from qoq.engine.config import EngineConfig

from .shapes import BLOCK_BYTES, on_cpu


def of_shape(name: str, load_format: str = "dummy") -> ModelSize:
    return model_size(EngineConfig(model=Path(name), load_format=load_format))


def test_llama_3_8b_has_its_weights():
    """6.98e9 weights in layers, 0.53e9 each in embedding and head."""
    size = of_shape("llama-3-8b", "dummy-per-channel")
    assert size.layer == ((6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336))
    layers, head = 32 * 218_103_808, 128256 * 4096
    assert size.total_bytes == layers // 2 + head + 2 * head


def test_groups_of_128_add_a_quarter_bit():
    assert of_shape("llama-3-8b").weight_bytes == 0.5 + 4 / 128
    assert of_shape("llama-3-8b", "dummy-per-channel").weight_bytes == 0.5


def test_a_quantized_checkpoint_s_shapes_and_groups(tiny_quantized: Path):
    size = model_size(EngineConfig(model=tiny_quantized))
    tensors = load_file(next(tiny_quantized.glob("*.safetensors")))
    codes = [tensor for name, tensor in tensors.items() if name.endswith("qweight")]
    assert 2 * sum(code.numel() for code in codes) == 2 * sum(n * k for n, k in size.layer)
    assert size.weight_bytes == 0.5 + 4 / 32


@pytest.mark.parametrize(("precision", "width"), [("fp32", 4), ("bf16", 2)])
def test_dense_weights_have_their_dtype_s_width(tiny_dense: Path, precision: str, width: int):
    assert model_size(EngineConfig(model=tiny_dense, precision=precision)).weight_bytes == width


def test_kv_of_blocks_in_all_layers(shape: Path):
    size = model_size(on_cpu(shape))
    assert size.kv_bytes(10) == 10 * BLOCK_BYTES
    assert size.kv_bytes_read(128) == 2 * BLOCK_BYTES


def test_a_sliding_window_bounds_what_is_read():
    """Mistral's is 4096 tokens; Llama reads everything."""
    mistral, llama = of_shape("mistral-7b"), of_shape("llama-3-8b")
    assert mistral.kv_bytes_read(1000) == llama.kv_bytes_read(1000)
    assert mistral.kv_bytes_read(8000) == mistral.kv_bytes_read(4096) < llama.kv_bytes_read(8000)
