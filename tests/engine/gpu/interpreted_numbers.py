"""Run by test_interpreted in a process of its own: logits of the GPU engine against float64."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from qoq.engine.gpu import layers
from qoq.engine.models.decoder import Decoder, take_rows
from qoq.kernels.gpu.gemm.w4a8 import W4A8Gemm
from qoq.kernels.kv_cache import KvFormat, load_codes, load_scales
from qoq.quantize.quantize import quantize_model
from qoq.quantize.recipe import Recipe
from qoq.scheduler.request import SamplingParams

from ...kernels.gpu import interpreter  # noqa: F401
from ..fake_quantization import Codes, FakeQuantizedModel
from ..manual_steps import random_tokens
from ..tiny_model import write_tiny_model
from .recorded_engine import GpuModel, RecordingRunner, complete

# numpy's, of rows that are padding.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

# As test_fake_quantization has it: some hundred roundings of fp32 lie behind a logit.
TOLERANCE = 1e-5
LAYERS, INPUTS = 2, 4
PROMPT, OUTPUT = 11, 4

CASES = {
    "per-group": ("Llama", "w4a8kv4", Recipe(group_size=32, int8_lm_head=True)),
    "per-channel": ("Qwen3", "w4a8kv4", Recipe(group_size=-1, int8_lm_head=True)),
    "w8a8kv8": ("Qwen2", "w8a8kv8", Recipe(int8_lm_head=True)),
}


class GemmInputs:
    """Of each linear layer in turn, codes and scales of all rows."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._inputs: list[tuple[Tensor, Tensor]] = []
        monkeypatch.setattr(W4A8Gemm, "__call__", self._listening(W4A8Gemm.__call__, place=1))
        w8a8 = self._listening(layers.w8a8_gemm_triton, place=0)
        monkeypatch.setattr(layers, "w8a8_gemm_triton", w8a8)

    def _listening(self, multiply: Callable[..., Tensor], place: int) -> Callable[..., Tensor]:
        """``place`` is that of the activations."""

        def call(*args: Any) -> Tensor:
            self._inputs.append((args[place].codes.clone(), args[place].scales.clone()))
            return multiply(*args)

        return call

    def codes(self, runner: RecordingRunner, cache: list[tuple[Tensor, Tensor]]) -> Codes:
        """Without the padding of steps."""
        tokens = [batch.num_tokens for batch in runner.batches]
        samples = [batch.num_samples for batch in runner.batches]
        places = [self._joined(place, tokens) for place in range(INPUTS * LAYERS)]
        by_layer = [places[INPUTS * i : INPUTS * (i + 1)] for i in range(LAYERS)]
        return Codes(
            [[codes for codes, _ in inputs] for inputs in by_layer],
            cache,
            self._joined(INPUTS * LAYERS, samples)[0],
            attention_scales=[inputs[1][1] for inputs in by_layer],
        )

    def _joined(self, place: int, counts: list[int]) -> tuple[Tensor, Tensor]:
        steps = self._inputs[place :: INPUTS * LAYERS + 1]
        parts = [[x[:count] for x in step] for step, count in zip(steps, counts, strict=True)]
        codes, scales = zip(*parts, strict=True)
        return torch.cat(codes), torch.cat(scales)


def cache_codes(runner: RecordingRunner, fmt: KvFormat, count: int) -> list[tuple[Tensor, Tensor]]:
    """Of each layer the first tokens: codes ``[T, 2, H, D]``, scale and bias ``[T, 2, H, 2]``."""
    (first,) = runner.batches[0].scheduled[0].new_block_ids
    found = []
    for cache in runner.caches:
        block = cache.blocks[first : first + 1]
        codes = torch.stack(list(load_codes(block, 1, fmt)))
        scales = load_scales(block, 1, fmt).permute(0, 2, 3, 1)
        found.append(tuple(x[:, :, :count].permute(2, 0, 1, 3) for x in (codes, scales)))
    return found


def compute_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the last layer too, of which the reference wants every token's codes."""
    whole = Decoder.finish

    def finish(decoder, attended, residual, rows):
        hidden = whole(decoder, attended, residual, None)
        return hidden if rows is None else take_rows(hidden, rows)

    monkeypatch.setattr(Decoder, "finish", finish)


@pytest.mark.parametrize("name", CASES)
def test_logits_equal_float64_s(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of a prompt in two chunks and of output tokens that only the device knows."""
    family, precision, recipe = CASES[name]
    dense = write_tiny_model(tmp_path / "dense", family)
    folder = quantize_model(
        dense, tmp_path / name, precision=precision, recipe=recipe, progress=False
    )
    compute_all_rows(monkeypatch)
    inputs = GemmInputs(monkeypatch)
    prompt = random_tokens(PROMPT, 96)
    model = GpuModel.load(folder)
    engine, runner = model.engine(num_blocks=2, max_num_seqs=2, max_num_batched_tokens=8)
    sampling = SamplingParams(max_tokens=OUTPUT, temperature=0.0)
    (done,) = complete(engine, [prompt], [sampling])
    tokens = prompt + done.token_ids[:-1]
    codes = inputs.codes(runner, cache_codes(runner, model.fmt, len(tokens)))
    levels = 255 if precision == "w8a8kv8" else 15
    expected = FakeQuantizedModel(folder, levels=levels).logits(tokens, codes)
    actual = torch.stack([runner.logits["0", PROMPT + i][0] for i in range(OUTPUT)])
    error = ((actual - expected).abs().max() / expected.abs().max()).item()
    assert error < TOLERANCE
    assert done.token_ids == actual.argmax(-1).tolist()


def test_a_head_of_16_bits_multiplies_what_the_norm_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """In prefill and in decode, whose logits have memory of their own."""
    dense = write_tiny_model(tmp_path / "dense")
    folder = quantize_model(dense, tmp_path / "m", recipe=Recipe(group_size=32), progress=False)
    model = GpuModel.load(folder, torch.float16)
    weight = model.checkpoint.tensor("lm_head.weight", *model.decoder.embedding.shape)
    exact: list[Tensor] = []
    write = layers.DenseHead.write

    def listening(head: layers.DenseHead, x: Tensor, out: Tensor | None) -> Tensor:
        exact.append(x[0].double() @ weight.half().double().t())
        logits = write(head, x, out)
        assert out is None or logits is out
        return logits

    monkeypatch.setattr(layers.DenseHead, "write", listening)
    engine, runner = model.engine(num_blocks=2, max_num_seqs=2, max_num_batched_tokens=16)
    sampling = SamplingParams(max_tokens=OUTPUT, temperature=0.0)
    (done,) = complete(engine, [random_tokens(PROMPT, 96)], [sampling])
    actual = torch.stack([runner.logits["0", PROMPT + i][0] for i in range(OUTPUT)])
    expected = torch.stack(exact)
    assert (actual - expected).abs().max() < TOLERANCE * expected.abs().max()
    assert done.token_ids == expected.argmax(-1).tolist()
