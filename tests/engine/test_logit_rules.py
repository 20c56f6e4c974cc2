"""Each rule on a row of ten logits, and rules that contradict each other."""

from __future__ import annotations

import torch

from qoq.engine.logit_rules import apply_rules
from qoq.engine.protocol import SamplingParams


def allowed(output: list[int], **rules: object) -> list[int]:
    """Tokens that may come after ``output``."""
    logits = torch.arange(10.0)
    apply_rules(logits, SamplingParams(max_tokens=9, **rules), output)
    return torch.nonzero(logits.isfinite())[:, 0].tolist()


def test_no_rule_changes_nothing():
    logits = torch.arange(10.0)
    apply_rules(logits, SamplingParams(max_tokens=9, stop_token_ids=(3,)), [])
    assert logits.tolist() == list(range(10))


def test_bias_is_added():
    logits = torch.arange(10.0)
    apply_rules(logits, SamplingParams(max_tokens=9, logit_bias=((2, 5.5), (9, -100.0))), [1])
    assert logits.tolist() == [0, 1, 7.5, 3, 4, 5, 6, 7, 8, -91]


def test_only_allowed_tokens_keep_their_logits():
    logits = torch.arange(10.0)
    apply_rules(logits, SamplingParams(max_tokens=9, allowed_token_ids=(4, 2)), [])
    assert logits[[2, 4]].tolist() == [2, 4]
    assert allowed([], allowed_token_ids=(4, 2)) == [2, 4]


def test_no_stop_token_before_min_tokens():
    rules = {"stop_token_ids": (0, 7), "min_tokens": 2}
    everything = list(range(10))
    assert allowed([], **rules) == allowed([5], **rules) == [1, 2, 3, 4, 5, 6, 8, 9]
    assert allowed([5, 5], **rules) == everything


def test_a_run_of_bad_tokens_is_not_completed():
    rules = {"bad_token_ids": ((3,), (1, 2, 4), (2, 5))}
    assert 3 not in allowed([], **rules)
    assert {4, 5} <= set(allowed([], **rules)) and {4, 5} <= set(allowed([1], **rules))
    assert {4, 5}.isdisjoint(allowed([9, 1, 2], **rules))
    assert 5 not in allowed([2], **rules) and 4 in allowed([2], **rules)


def test_a_ban_of_everything_gives_way():
    assert allowed([], allowed_token_ids=(7,), stop_token_ids=(7,), min_tokens=3) == [7]
    assert allowed([], bad_token_ids=tuple((token,) for token in range(10))) == list(range(10))
