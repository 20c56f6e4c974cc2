"""Random codes in the format of ``qoq quantize``, which the engine takes for a checkpoint."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors import safe_open
from transformers import AutoConfig

from qoq.engine.config import EngineConfig
from qoq.engine.dummy_checkpoint import PER_CHANNEL
from qoq.engine.llm import LLM
from qoq.engine.protocol import SamplingParams
from qoq.quantize.checkpoint import CheckpointWriter
from qoq.quantize.quantize import quantize_model
from qoq.quantize.recipe import Recipe
from qoq.server.bench import random_checkpoint
from qoq.server.bench.random_checkpoint import write_random_checkpoint

from ...engine.tiny_model import write_tiny_model

WIDE = {"hidden_size": 128, "head_dim": 32, "intermediate_size": 256}
SHAPES = [("Llama", 128), ("Qwen2", 128), ("Qwen3", PER_CHANNEL)]


def tensors(folder: Path) -> dict[str, tuple[str, list[int]]]:
    """Kind and shape of each; 16 and 32 bits are one kind, an engine takes either."""
    found = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            for name in names:
                part = file.get_slice(name)
                found[name] = (part.get_dtype().rstrip("0123456789"), part.get_shape())
    return found


@pytest.mark.parametrize(("family", "group_size"), SHAPES, ids=lambda value: str(value))
def test_it_has_the_tensors_of_a_quantized_model(tmp_path: Path, family: str, group_size: int):
    dense = write_tiny_model(tmp_path / "dense", family, **WIDE)
    recipe = Recipe(group_size=group_size, int8_lm_head=True)
    quantized = quantize_model(dense, tmp_path / "quantized", recipe=recipe, progress=False)
    write_random_checkpoint(dense, tmp_path / "random", group_size)
    assert tensors(tmp_path / "random") == tensors(quantized)
    ours, theirs = (
        json.loads((folder / "config.json").read_text())["quantization_config"]
        for folder in (tmp_path / "random", quantized)
    )
    assert ours | {"techniques": theirs["techniques"]} == theirs


def test_its_shards_load_and_generate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    small = partial(CheckpointWriter, shard_bytes=100_000)
    monkeypatch.setattr(random_checkpoint, "CheckpointWriter", small)
    dense = write_tiny_model(tmp_path / "dense", **WIDE, num_hidden_layers=4)
    out = tmp_path / "random"
    write_random_checkpoint(dense, out, 128)
    assert len(list(out.glob("model-*-of-00003.safetensors"))) == 3
    assert AutoConfig.from_pretrained(out).num_hidden_layers == 4
    llm = LLM(EngineConfig(model=out, device="cpu", num_threads=1, kv_cache_bytes=2**22))
    sampling = SamplingParams(max_tokens=20, temperature=0.0)
    [completion] = llm.generate([[1, 2, 3]], sampling)
    llm.close()
    assert len(set(completion.token_ids)) > 3, "dead weights would repeat a token"


def test_a_disk_that_is_too_small_is_left_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    free = SimpleNamespace(free=2**32)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with pytest.raises(OSError) as error:
        write_random_checkpoint(Path("llama-3-8b"), tmp_path / "out", 128)
    message = "out: the checkpoint takes 4.92 GiB and 4.00 GiB is free there; make room"
    assert message in str(error.value)
    assert not list(tmp_path.iterdir())
