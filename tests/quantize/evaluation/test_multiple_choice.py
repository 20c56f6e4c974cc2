"""Choices are scored whole, compared within their question, and normalized by bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from qoq.quantize.evaluation.data import DataError
from qoq.quantize.evaluation.multiple_choice import MultipleChoice, Question, accuracies
from qoq.quantize.evaluation.scorer import Scorer
from qoq.quantize.evaluation.task import Subject
from qoq.quantize.evaluation.tokenizer import EvaluationTokenizer

from ...engine.test_hugging_face import hugging_face_logits


def values(questions: list[Question], log_likelihoods: list[float]) -> list[float]:
    return [metric.value for metric in accuracies(questions, log_likelihoods)]


def test_the_sum_and_the_mean_over_bytes_choose_differently():
    """-3 beats -4, but -4 over 8 bytes beats -3 over 2."""
    question = [Question("q", ["ab", "abcdefgh"], gold=1)]
    assert values(question, [-3.0, -4.0]) == [0.0, 1.0]


def test_bytes_are_counted_and_not_characters():
    """Six characters are nine bytes and win; divided by characters, -9 over 6 would lose to -7
    over 5.
    """
    question = [Question("q", ["äöüabc", "abcde"], gold=0)]
    assert values(question, [-9.0, -7.0]) == [0.0, 1.0]


def test_each_question_has_its_own_choices():
    questions = [
        Question("two", ["a", "b"], gold=1),
        Question("three", ["a", "b", "c"], gold=0),
        Question("one", ["a"], gold=0),
        Question("equal", ["a", "b"], gold=1),
    ]
    assert values(questions, [-2, -1, -5, -6, -7, -9, -3, -3]) == [0.75, 0.75]


def test_an_empty_choice_divides_by_one():
    assert values([Question("q", ["", "abc"], gold=0)], [-4.0, -9.0]) == [1.0, 0.0]


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_model_s_choice_is_that_of_its_logits(tiny_dense: Path, tmp_path: Path):
    """Fails where the prompt, the space before an answer or the first token is lost."""
    choices = ["yes", "no, never", "perhaps"]
    path = write(tmp_path / "x.jsonl", {"query": "Does it?", "choices": choices, "gold": 0})
    sums = []
    prompt = "Question: Does it?\nAnswer:"
    for choice in choices:
        tokens = list(f"{prompt} {choice}".encode())
        rows = hugging_face_logits(tiny_dense, tokens)[:-1].log_softmax(dim=-1)
        picked = rows[torch.arange(len(rows)), torch.tensor(tokens[1:])]
        sums.append(picked[len(prompt) - 1 :].sum().item())
    scorer = Scorer.load(tiny_dense, None, max_tokens=200)
    model = Subject("m", scorer, EvaluationTokenizer(tiny_dense))
    task = MultipleChoice.read("piqa", path, limit=None)
    for gold in range(3):
        task.questions[0] = Question("Does it?", choices, gold)
        acc, acc_norm = (metric.value for metric in task.run(model, None))
        assert acc == (gold == sums.index(max(sums)))
        means = [total / len(choice) for total, choice in zip(sums, choices, strict=True)]
        assert acc_norm == (gold == means.index(max(means)))


def test_the_limit_takes_the_first_questions(tmp_path: Path):
    rows = [{"query": str(i), "choices": ["a", "b"], "gold": 0} for i in range(5)]
    task = MultipleChoice.read("arc_easy", write(tmp_path / "x.jsonl", *rows), limit=2)
    assert [question.query for question in task.questions] == ["0", "1"]
    assert task.note == "2 questions, asked as 'Question: ...\\nAnswer:'"


@pytest.mark.parametrize("gold", [2, -1])
def test_a_gold_that_is_no_choice_is_refused(tmp_path: Path, gold: int):
    path = write(tmp_path / "x.jsonl", {"query": "q", "choices": ["a", "b"], "gold": gold})
    with pytest.raises(DataError, match=f"x.jsonl:1: gold {gold} is not one of the choices"):
        MultipleChoice.read("piqa", path, limit=None)
