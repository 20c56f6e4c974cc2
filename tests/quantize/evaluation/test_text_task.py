"""Perplexity and divergence, against their definitions on models that are known."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from qoq.quantize.evaluation.data import DataError
from qoq.quantize.evaluation.passage import Passage
from qoq.quantize.evaluation.scorer import Scorer
from qoq.quantize.evaluation.task import Subject
from qoq.quantize.evaluation.text_task import TextTask, Windows, compare
from qoq.quantize.evaluation.tokenizer import EvaluationTokenizer

from ...engine.manual_steps import random_tokens
from ...engine.test_hugging_face import hugging_face_logits
from .tiny_chat import VOCAB_SIZE

PASSAGES = [Passage(random_tokens(100, VOCAB_SIZE, seed=seed)) for seed in range(3)]


@pytest.fixture(scope="module")
def uniform(tiny_dense: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose logits are all zero."""
    folder = shutil.copytree(tiny_dense, tmp_path_factory.mktemp("uniform") / "model")
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = torch.zeros_like(tensors["lm_head.weight"])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def load(folder: Path) -> Scorer:
    return Scorer.load(folder, None, max_tokens=200)


def subject(folder: Path) -> Subject:
    return Subject("model", load(folder), EvaluationTokenizer(folder))


def test_windows_drop_what_is_left_over():
    passages = Windows(4).cut(range(11))
    assert [passage.tokens for passage in passages] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert [passage.targets for passage in passages] == [[1, 2, 3], [5, 6, 7]]


def test_the_first_windows_only():
    assert [passage.tokens[0] for passage in Windows(3, 2).cut(range(12))] == [0, 3]
    assert Windows(3, 2).note == "the first 2 windows of 3 tokens"


def test_a_text_shorter_than_a_window_is_refused():
    with pytest.raises(DataError, match="3 tokens, not even one window of 4; .* smaller --window"):
        Windows(4).cut(range(3))


def test_perplexity_of_a_uniform_model_is_the_vocabulary(uniform: Path):
    task = TextTask("text", "any text of more than twenty bytes", Windows(10))
    metrics = {metric.name: metric.value for metric in task.run(subject(uniform), None)}
    assert metrics["perplexity"] == pytest.approx(VOCAB_SIZE, rel=1e-5)


def test_loss_and_divergence_are_those_of_the_definition(tiny_dense: Path, uniform: Path):
    """KL(p || uniform) = log V - H(p). Fails with the two models exchanged, where it is larger."""
    found = compare(load(uniform), load(tiny_dense), PASSAGES, "")
    logits = [hugging_face_logits(tiny_dense, passage.tokens)[:-1] for passage in PASSAGES]
    log_probs = torch.cat(logits).double().log_softmax(dim=-1)
    targets = torch.tensor([token for passage in PASSAGES for token in passage.targets])
    uniform_loss = torch.tensor(float(VOCAB_SIZE)).log().item()
    entropy = -(log_probs.exp() * log_probs).sum(dim=-1).mean().item()
    loss = -log_probs.gather(1, targets[:, None]).mean().item()
    assert found.loss == pytest.approx(uniform_loss, rel=1e-5)
    assert found.reference_loss == pytest.approx(loss, rel=1e-4)
    assert found.divergence == pytest.approx(uniform_loss - entropy, rel=1e-4)
    assert found.agreement == pytest.approx(
        (log_probs.argmax(dim=-1) == 0).double().mean().item()  # of equals, the first
    )


def test_a_model_does_not_differ_from_itself(tiny_dense: Path, tiny_quantized: Path):
    same = compare(load(tiny_dense), load(tiny_dense), PASSAGES, "")
    assert same.divergence == 0 and same.agreement == 1 and same.loss == same.reference_loss
    other = compare(load(tiny_quantized), load(tiny_dense), PASSAGES, "")
    assert other.divergence > 0.001 and 0.3 < other.agreement < 1


def test_the_metrics_beside_a_reference(tiny_quantized: Path, tiny_dense: Path):
    text = "Some text that is long enough for two windows. " * 3
    task = TextTask("text", text, Windows(60))
    names = [m.name for m in task.run(subject(tiny_quantized), subject(tiny_dense))]
    assert names == ["perplexity", "loss", "added loss", "KL", "top-1"]


def test_another_vocabulary_is_refused(tiny_dense: Path, tmp_path: Path):
    from ...engine.tiny_model import write_tiny_model

    other = write_tiny_model(tmp_path / "other", vocab_size=99)
    with pytest.raises(DataError, match="dense has 258 tokens and the reference 99; give"):
        compare(load(tiny_dense), load(other), PASSAGES, "")


def test_windows_after_others_are_the_ones_that_follow():
    tokens = list(range(50))
    windows = Windows(length=10, count=2, skip=1)
    assert [passage.tokens[0] for passage in windows.cut(tokens)] == [10, 20]
    assert windows.note == "the first 2 windows of 10 tokens after the first 1"
    with pytest.raises(DataError, match="no more than 5 windows"):
        Windows(length=10, skip=5).cut(tokens)
