from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from qoq.quantize.evaluation.data import DataError
from qoq.quantize.evaluation.last_word import LastWord, summarize
from qoq.quantize.evaluation.passage import Passage, Score
from qoq.quantize.evaluation.scorer import Scorer
from qoq.quantize.evaluation.task import Subject
from qoq.quantize.evaluation.tokenizer import EvaluationTokenizer


def read(path: Path, *texts: str) -> LastWord:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return LastWord.read("lambada", path, limit=None)


def test_the_word_keeps_its_space(tmp_path: Path):
    assert read(tmp_path / "x.jsonl", "He said no").texts == [("He said", " no")]


@pytest.mark.parametrize("text", ["word", "ends with a space ", " word", ""])
def test_a_text_without_a_last_word_is_refused(tmp_path: Path, text: str):
    with pytest.raises(DataError, match="x.jsonl:1: expected a word after a space at the end"):
        read(tmp_path / "x.jsonl", text)


def test_every_token_of_the_word_must_be_the_likeliest():
    passages = [Passage([1, 2, 3], first=1), Passage([1, 2, 3], first=1), Passage([4, 5], first=1)]
    scores = [
        Score(torch.tensor([-1.0, -2.0]), torch.tensor([2, 3])),
        Score(torch.tensor([-0.5, -0.5]), torch.tensor([2, 9])),
        Score(torch.tensor([-2.0]), torch.tensor([5])),
    ]
    accuracy, perplexity = (metric.value for metric in summarize(passages, scores))
    assert accuracy == pytest.approx(2 / 3)
    assert perplexity == pytest.approx(math.exp((3 + 1 + 2) / 3))  # a word each, not a token


def test_a_model_guesses_the_word_that_it_would_write(tiny_dense: Path, tmp_path: Path):
    """Its own continuation counts as right and another one does not."""
    scorer = Scorer.load(tiny_dense, None, max_tokens=200)
    model = Subject("m", scorer, EvaluationTokenizer(tiny_dense))
    context = "The quick brown fox"
    passage = Passage(list(f"{context} jumps".encode()), first=len(context))
    top = scorer.scores([passage])[0].top_tokens.tolist()
    own = Passage(passage.tokens[: passage.first] + top[:1], passage.first)
    task = LastWord("lambada", [(context, " jumps")])
    assert task.run(model, None)[0].value == float(top == passage.targets)
    assert summarize([own], scorer.scores([own]))[0].value == 1.0
