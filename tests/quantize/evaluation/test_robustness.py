from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from qoq.quantize.evaluation.noise import NOISES
from qoq.quantize.evaluation.robustness import Robustness
from qoq.quantize.evaluation.scorer import Scorer
from qoq.quantize.evaluation.task import Subject
from qoq.quantize.evaluation.text_task import Windows, mean_loss
from qoq.quantize.evaluation.tokenizer import EvaluationTokenizer

TEXT = "The Quick brown fox jumps over the lazy dogs, while nobody is watching closely. " * 4
WINDOWS = Windows(100, 2)
CONDITIONS = ["clean", *NOISES]


def subject(folder: Path) -> Subject:
    return Subject("m", Scorer.load(folder, None, max_tokens=200), EvaluationTokenizer(folder))


def test_loss_is_that_of_the_noisy_text(tiny_dense: Path):
    model = subject(tiny_dense)
    found = {m.condition: m.value for m in Robustness(TEXT, WINDOWS, seed=5).run(model, None)}
    assert list(found) == CONDITIONS
    for name, noise in NOISES.items():
        passages = WINDOWS.cut(list(noise(TEXT, Random(5)).encode()))
        assert found[name] == pytest.approx(mean_loss(model.scorer, passages, ""))
    assert len(set(found.values())) == len(CONDITIONS)


def test_beside_a_reference_agreement_comes_first(tiny_quantized: Path, tiny_dense: Path):
    metrics = Robustness(TEXT, WINDOWS, seed=0).run(subject(tiny_quantized), subject(tiny_dense))
    assert [m.name for m in metrics] == [
        f"{condition} {kind}"
        for kind in ("top-1", "loss", "added loss")
        for condition in CONDITIONS
    ]
    assert all(0.3 < m.value < 1 for m in metrics[:4])
