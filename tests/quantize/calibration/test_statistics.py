from __future__ import annotations

from pathlib import Path

import pytest
import torch

from qoq.engine.precision import PRECISIONS
from qoq.quantize.calibration.layer_forward import LayerForward
from qoq.quantize.calibration.statistics import INPUTS, Samples
from qoq.quantize.sources.model_source import LINEAR_PARTS

from ..transforms.tiny_decoder import TinyDecoder

LENGTH = 24
HIDDEN = torch.randn(19, LENGTH, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def decoder(tmp_path: Path) -> TinyDecoder:
    return TinyDecoder.make(tmp_path, "qwen2-bias")


def samples(decoder: TinyDecoder) -> Samples:
    return Samples.of(decoder.config, PRECISIONS["fp32"], HIDDEN)


def test_every_linear_layer_has_an_input():
    assert set(INPUTS) == {f"{part}.weight" for part in LINEAR_PARTS}


def test_sums_over_chunks_are_those_of_all_samples_at_once(decoder: TinyDecoder):
    """19 samples are two chunks of 8 and a rest of 3. Sums of 456 products in fp32."""
    forward = LayerForward.of(decoder.config, PRECISIONS["fp32"], LENGTH, max_samples=19)
    trace, layer = forward(decoder.layers[0], HIDDEN), decoder.layers[0]
    for name, gram in samples(decoder).grams(layer).items():
        x = getattr(trace, name).double()
        assert torch.allclose(gram.double(), x.T @ x, rtol=0, atol=1e-5 * (x.T @ x).max()), name
    assert torch.allclose(samples(decoder).output(layer), trace.output, atol=1e-4)


def test_a_linear_layer_is_matched_with_what_it_reads(decoder: TinyDecoder):
    """Its outputs, from the named input, are what comes next in the trace."""
    trace = samples(decoder).trace(decoder.layers[0])
    tensors = decoder.layers[0].tensors
    gate, up = (
        getattr(trace, INPUTS[name]) @ tensors[name].T
        for name in ("mlp.gate_proj.weight", "mlp.up_proj.weight")
    )
    assert torch.allclose(torch.nn.functional.silu(gate) * up, trace.down_input, atol=1e-3)
    added = [
        getattr(trace, INPUTS[name]) @ tensors[name].T
        for name in ("self_attn.o_proj.weight", "mlp.down_proj.weight")
    ]
    stream = HIDDEN[:8].flatten(0, 1) + sum(added)
    assert torch.allclose(stream.view(8, LENGTH, -1), trace.output, atol=1e-3)
