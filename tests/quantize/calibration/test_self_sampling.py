"""Samples that the model draws of itself: seeded, whole, and from its own distribution."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from qoq.quantize.calibration.self_sampling import sample_windows
from qoq.quantize.errors import ModelSourceError
from qoq.quantize.recipe import CalibrationSpec

from ...engine.manual_steps import make_runner, run_chunks
from ...engine.tiny_model import write_tiny_model

VOCAB = 96


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    overrides = {"bos_token_id": 5, "eos_token_id": 6}
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "dense", **overrides)


def sample(model: Path, **changes: int) -> torch.Tensor:
    spec = CalibrationSpec(**{"num_samples": 12, "length": 32, "seed": 0, **changes})
    return sample_windows(model, spec, progress=False).ids


def test_every_sample_is_whole_and_starts_with_bos(model: Path):
    ids = sample(model)
    assert ids.shape == (12, 32) and ids.dtype == torch.int64
    assert (ids[:, 0] == 5).all() and ids.min() >= 0 and ids.max() < VOCAB
    assert len(ids[:, 1].unique()) > 6  # drawn, not the same start over and over
    assert (ids[:, 2:] == 6).any()  # goes on past the end of a document


def test_the_seed_decides(model: Path):
    first = sample(model)
    assert torch.equal(sample(model), first)
    assert not torch.equal(sample(model, seed=1), first)


def test_tokens_are_what_the_model_expects_at_temperature_one(model: Path):
    """Per token the surprise minus its own expectation has mean zero and a known variance, so
    their sum over independent draws stays within 4 standard deviations. Uniform tokens miss it by
    dozens, greedy ones are short of it.
    """
    runner = make_runner(model, precision="fp32", num_threads=1)
    ids = sample(model, num_samples=6, length=100)
    drift, variance = 0.0, 0.0
    for row in ids.tolist():
        logs = run_chunks(runner, row, [len(row)]).double().log_softmax(dim=-1)[1:-1]
        expected = (logs.exp() * logs).sum(dim=-1)
        drift += (logs.gather(1, torch.tensor(row)[2:, None])[:, 0] - expected).sum().item()
        variance += ((logs.exp() * logs.square()).sum(dim=-1) - expected.square()).sum().item()
    assert abs(drift) < 4 * variance**0.5


def test_samples_longer_than_the_context_are_refused(model: Path):
    with pytest.raises(ModelSourceError, match="calibration.length is 513, and .* context is 512"):
        sample(model, length=513)


def test_samples_that_do_not_fit_the_memory_are_refused(model: Path):
    with pytest.raises(ModelSourceError, match="not enough memory: .* a text by --calib, or fewer"):
        sample(model, num_samples=10**8)
