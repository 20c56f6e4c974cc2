from __future__ import annotations

from pathlib import Path

import pytest

from qoq.engine.checkpoint import CheckpointError
from qoq.quantize.errors import ModelSourceError
from qoq.quantize.evaluation.candidate import Candidate, short_names


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model", Candidate("model", "w4a16")),
        ("a/b@w4a4", Candidate("a/b", "w4a4")),
        ("a/b@fp32", Candidate("a/b", "fp32")),
        ("a@b/c", Candidate("a@b/c", "w4a16")),
        ("a@b/c@w4a4", Candidate("a@b/c", "w4a4")),
        ("@fp32", Candidate("@fp32", "w4a16")),
    ],
)
def test_a_precision_follows_the_last_at(text: str, expected: Candidate):
    assert Candidate.parse(text, "w4a16") == expected


def test_names_are_short_where_they_differ():
    assert short_names(["a/x", "b/x", "c/y", "a/x"]) == {"a/x": "a/x", "b/x": "b/x", "c/y": "y"}


@pytest.mark.parametrize("precision", [None, "w4a8kv4", "w4a16", "w4a4"])
def test_4_bit_weights_run_with_any_activations(tiny_quantized: Path, precision: str | None):
    candidate = Candidate(str(tiny_quantized), precision)
    folder = candidate.resolve("rtn", 128)
    assert folder == tiny_quantized
    assert candidate.load(folder, "tiny", 100).label == f"tiny {precision or 'w4a8kv4'}"


@pytest.mark.parametrize("precision", ["fp32", "bf16", "w16a16kv4"])
def test_dense_weights_run_in_any_dense_precision(tiny_dense: Path, precision: str):
    assert Candidate(str(tiny_dense), precision).resolve("rtn", 128) == tiny_dense


@pytest.mark.parametrize("precision", ["w16a16kv4", "w8a8kv8"])
def test_weights_of_other_bits_are_refused(tiny_quantized: Path, precision: str):
    with pytest.raises((ModelSourceError, CheckpointError), match="w4a8kv4"):
        Candidate(str(tiny_quantized), precision).resolve("rtn", 128)


def test_a_dense_model_is_quantized_for_a_comparison(
    tiny_dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("QOQ_CACHE", str(tmp_path))
    folder = Candidate(str(tiny_dense), "w4a16").resolve("rtn", 32)
    assert folder.is_relative_to(tmp_path) and "w4a8kv4" in folder.name
