import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType as Quant
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from qoq.kernels.packing import unpack_codes
from qoq.quantize import quantize
from qoq.quantize.errors import ModelSourceError
from qoq.quantize.quantize import quantize_model
from qoq.quantize.recipe import Recipe
from qoq.quantize.sources.model_source import is_decoder_linear
from qoq.quantize.weights.channel_weight import ChannelWeight
from qoq.quantize.weights.int8_weight import Int8Weight
from qoq.quantize.weights.progressive_weight import ProgressiveWeight

from .tiny_gguf import tiny_state, write_tiny_gguf
from .tiny_hf import write_tiny_hf

FAMILIES = ("Llama", "Mistral", "Qwen2", "Qwen3")
KILL_IN_LAYER_1 = """
import os, signal, sys
from pathlib import Path
from qoq.quantize.layer_quantizer import LayerQuantizer
from qoq.quantize.quantize import quantize_model
quantize = LayerQuantizer.__call__
def quantize_or_die(self, layer, hidden):
    if layer.index == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return quantize(self, layer, hidden)
LayerQuantizer.__call__ = quantize_or_die
quantize_model(sys.argv[1], Path(sys.argv[2]), progress=False)
"""
FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from qoq.quantize.quantize import quantize_model
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    quantize_model(sys.argv[1], Path(sys.argv[2]), progress=False)
except OSError as error:
    print(error)
"""


def dequantize(tensors: dict[str, Tensor], stem: str) -> Tensor:
    """The weight that stored tensors stand for, whichever of the formats they are in."""
    part = {suffix: tensors.get(f"{stem}.{suffix}") for suffix in STORED}
    if part["weight"] is not None:
        return Int8Weight(part["weight"], part["scales"]).dequantize()
    codes = unpack_codes(part["qweight"])
    if part["zeros"] is not None:
        return ChannelWeight(codes, part["scales"], part["zeros"]).dequantize()
    groups = part["group_scales"], part["group_offsets"]
    return ProgressiveWeight(codes, part["scales"], *groups).dequantize()


STORED = ("weight", "qweight", "scales", "zeros", "group_scales", "group_offsets")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("precision", "group_size", "max_error"),
    [("w4a8kv4", 32, 0.09), ("w4a8kv4", -1, 0.12), ("w8a8kv8", 128, 0.008)],
)
def test_every_linear_is_close_and_all_else_is_unchanged(
    tmp_path: Path, family: str, precision: str, group_size: int, max_error: float
):
    """Relative errors of rounding Gaussian rows, as the formats' steps give them (about 0.083,
    0.10 and 0.006), and a sixth more for the luck of small matrices.
    """
    folder = write_tiny_hf(tmp_path / "model", family)
    out = tmp_path / "out"
    quantize_model(
        folder, out, precision=precision, recipe=Recipe(group_size=group_size), progress=False
    )
    source, stored = load_file(folder / "model.safetensors"), load_file(out / "model.safetensors")
    for name, tensor in source.items():
        if is_decoder_linear(name):
            restored = dequantize(stored, name.removesuffix(".weight"))
            error = (restored - tensor.float()).norm() / tensor.float().norm()
            assert error < max_error, (name, error)
        else:
            assert torch.equal(stored[name], tensor), name


def test_stored_names_and_shapes_are_the_format(tmp_path: Path):
    folder = write_tiny_hf(tmp_path / "model", "Qwen2")
    quantize_model(folder, tmp_path / "out", recipe=Recipe(group_size=32), progress=False)
    stored = load_file(tmp_path / "out" / "model.safetensors")
    down = {
        name.rpartition(".")[2]: (tensor.dtype, tuple(tensor.shape))
        for name, tensor in stored.items()
        if name.startswith("model.layers.1.mlp.down_proj.")
    }
    assert down == {
        "qweight": (torch.uint8, (64, 48)),
        "scales": (torch.float32, (64,)),
        "group_scales": (torch.uint8, (64, 3)),
        "group_offsets": (torch.int8, (64, 3)),
    }
    assert stored["model.layers.0.self_attn.q_proj.bias"].dtype == torch.bfloat16


def test_config_says_what_was_done_and_keeps_the_rest(tmp_path: Path):
    folder = write_tiny_hf(tmp_path / "model")
    quantize_model(folder, tmp_path / "out", recipe=Recipe(group_size=32), progress=False)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config.pop("quantization_config") == {
        "quant_method": "qoq",
        "format_version": 1,
        "precision": "w4a8kv4",
        "group_size": 32,
        "techniques": [],
    }
    assert config == json.loads((folder / "config.json").read_text())
    assert (tmp_path / "out" / "generation_config.json").exists()


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_a_dense_gguf_is_a_folder_that_transformers_loads(
    tmp_path: Path, architecture: str, precision: str
):
    weights = write_tiny_gguf(tmp_path / "x.gguf", architecture)
    out = quantize_model(tmp_path / "x.gguf", tmp_path / "out", precision=precision, progress=False)
    model = AutoModelForCausalLM.from_pretrained(out)
    state = model.state_dict()
    for name, weight in weights.items():
        assert torch.equal(state[name], weight.to(model.dtype)), name
    assert model.dtype == {"fp32": torch.float32, "bf16": torch.bfloat16}.get(
        precision, torch.float16
    )
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer("<|im_start|>he")["input_ids"] == [257, 256]
    assert tokenizer.eos_token == "<|im_end|>"


def test_a_tied_model_stores_its_embedding_once(tmp_path: Path):
    write_tiny_gguf(tmp_path / "x.gguf", quant=Quant.Q8_0)
    out = quantize_model(
        tmp_path / "x.gguf", tmp_path / "out", recipe=Recipe(group_size=32), progress=False
    )
    stored = load_file(out / "model.safetensors")
    assert "lm_head.weight" not in stored
    assert stored["model.embed_tokens.weight"].dtype == torch.float16


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj.weight", "model.norm.weight"])
def test_nan_and_infinity_are_refused_by_name(tmp_path: Path, name: str, value: float):
    folder = write_tiny_hf(tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    tensors[name].view(-1)[3] = value
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ModelSourceError, match=f"tensor {name} holds NaN or infinite"):
        quantize_model(folder, tmp_path / "out", recipe=Recipe(group_size=32), progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_overflow_of_a_narrower_type_is_refused_by_name(tmp_path: Path):
    state = tiny_state()
    state["model.norm.weight"][0] = 1e6
    write_tiny_gguf(tmp_path / "x.gguf", state=state)
    with pytest.raises(ModelSourceError, match=r"model\.norm\.weight does not fit torch\.float16"):
        quantize_model(tmp_path / "x.gguf", tmp_path / "out", precision="fp16", progress=False)


def test_no_work_is_done_for_a_shape_that_no_group_divides(tmp_path: Path):
    folder = write_tiny_hf(tmp_path / "model", intermediate_size=80)
    with pytest.raises(ModelSourceError, match=r"layers\.0\.mlp\.down_proj\.weight \[64, 80\]"):
        quantize_model(folder, tmp_path / "out", progress=False)
    quantize_model(folder, tmp_path / "out", recipe=Recipe(group_size=-1), progress=False)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_run_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
):
    folder = write_tiny_hf(tmp_path / "model")
    add = quantize.CheckpointWriter.add

    def add_or_fail(self: quantize.CheckpointWriter, tensors: dict[str, Tensor]) -> None:
        if any("layers.1." in name for name in tensors):
            raise error
        add(self, tensors)

    monkeypatch.setattr(quantize.CheckpointWriter, "add", add_or_fail)
    with pytest.raises(error):
        quantize_model(folder, tmp_path / "out", recipe=Recipe(group_size=32), progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_killed_run_leaves_no_checkpoint_and_the_next_one_succeeds(tmp_path: Path):
    write_tiny_gguf(tmp_path / "x.gguf")
    out = tmp_path / "out"
    command = [sys.executable, "-c", KILL_IN_LAYER_1, str(tmp_path / "x.gguf"), str(out)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert not out.exists() and (tmp_path / ".out.partial").exists()
    quantize_model(tmp_path / "x.gguf", out, recipe=Recipe(group_size=32), progress=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "x.gguf"]


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path):
    """The largest file allowed is smaller than the checkpoint."""
    write_tiny_gguf(tmp_path / "x.gguf")
    out = tmp_path / "out"
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "x.gguf"), str(out)]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "File too large" in run.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["x.gguf"]


def test_holds_one_layer_and_one_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Counts bytes of results that are pending, over a model of many layers."""
    folder = write_tiny_hf(tmp_path / "model", num_hidden_layers=12)
    pending: list[int] = []

    class SmallShards(quantize.CheckpointWriter):
        def __init__(self, folder: Path) -> None:
            super().__init__(folder, shard_bytes=1)

        def end_layer(self) -> None:
            pending.append(sum(tensor.nbytes for tensor in self._pending.values()))
            super().end_layer()

    monkeypatch.setattr(quantize, "CheckpointWriter", SmallShards)
    quantize_model(folder, tmp_path / "out", recipe=Recipe(group_size=32), progress=False)
    assert len(pending) == 14
    total = sum(path.stat().st_size for path in (tmp_path / "out").glob("*.safetensors"))
    assert max(pending) < total / 6


def test_threads_of_torch_are_as_before(tmp_path: Path):
    folder = write_tiny_hf(tmp_path / "model")
    before = torch.get_num_threads()
    quantize_model(folder, tmp_path / "out", recipe=Recipe(group_size=32), progress=False)
    assert torch.get_num_threads() == before


def test_two_runs_are_bit_equal(tmp_path: Path):
    folder = write_tiny_hf(tmp_path / "model")
    for name in "ab":
        quantize_model(folder, tmp_path / name, recipe=Recipe(group_size=32), progress=False)
    for file in os.listdir(tmp_path / "a"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
