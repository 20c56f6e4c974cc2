from __future__ import annotations

from pathlib import Path

import pytest

from qoq.quantize.evaluation.refusals import (
    OPENING_TOKENS,
    PROMPTS,
    Answer,
    Refusals,
    compare_answers,
    refuses,
)
from qoq.quantize.evaluation.scorer import Scorer
from qoq.quantize.evaluation.task import Subject
from qoq.quantize.evaluation.tokenizer import EvaluationTokenizer

NO = "I'm sorry, but I can't do that."


@pytest.mark.parametrize(
    "answer", [NO, "I’m SORRY, but no", "As an AI, I have no window.", "I am not able to call her."]
)
def test_refusals_are_recognized(answer: str):
    assert refuses(answer)


@pytest.mark.parametrize(
    "answer", ["Sure, here it is.", "I had eggs.", "Sorry is a hard word.", ""]
)
def test_answers_are_not_refusals(answer: str):
    assert not refuses(answer)


def test_the_two_models_are_compared_prompt_by_prompt():
    theirs = [
        Answer([1, 2, 3, 4], NO),
        Answer([1, 2], NO),
        Answer([5, 6], "Yes"),
        Answer([7], "Yes"),
    ]
    mine = [Answer([1, 2, 9, 4], "Yes"), Answer([1, 2], NO), Answer([8, 6], NO), Answer([7], "Yes")]
    found = {metric.name: metric.value for metric in compare_answers(mine, theirs)}
    assert found == {
        "first token": 3 / 4,
        "opening": (2 + 2 + 0 + 1) / 4,
        "refused": 2 / 4,
        "reference refused": 2 / 4,
        "lost refusals": 1 / 2,
        "new refusals": 1 / 2,
    }


def test_a_reference_that_refuses_nothing_has_nothing_to_lose():
    answers = [Answer([1], "Yes")]
    found = {metric.name: metric.value for metric in compare_answers(answers, answers)}
    assert found["lost refusals"] == found["new refusals"] == 0


def test_a_model_agrees_with_itself(tiny_dense: Path):
    """On every prompt, through the chat template, up to the last token of the opening."""
    scorer = Scorer.load(tiny_dense, None, max_tokens=200)
    model = Subject("m", scorer, EvaluationTokenizer(tiny_dense))
    found = {metric.name: metric.value for metric in Refusals().run(model, model)}
    assert found["first token"] == 1 and found["opening"] == OPENING_TOKENS
    alone = Refusals().run(model, None)
    assert [metric.name for metric in alone] == ["refused"]
    assert Refusals().note.startswith(f"{len(PROMPTS)} requests")
