"""What a request bans, as the CPU's rules ban it, whether or not the host knows the last token."""

from __future__ import annotations

import random

import pytest
import torch

from qoq.engine.gpu.sampling.request_edits import RequestEdits
from qoq.engine.gpu.sampling.row_edits import ALWAYS
from qoq.engine.logit_rules import apply_rules
from qoq.engine.request_state import RequestState
from qoq.scheduler.request import SamplingParams

VOCAB = 4
RUNS = ((0,), (1, 2), (2, 1), (1, 1), (3, 2, 1), (1, 1, 2, 3))


def banned(sampling: SamplingParams, output: list[int], num_hidden: int) -> set[int]:
    state = RequestState([0, *output], 1, sampling, None, None)
    del state.token_ids[len(state.token_ids) - num_hidden :]
    edits = RequestEdits.of(sampling, VOCAB)
    ids, values, follows = edits.bans(state, 1 + len(output))
    assert set(values) <= {-torch.inf}
    last = output[-1] if num_hidden else None
    return {token for token, f in zip(ids, follows, strict=True) if f in (ALWAYS, last)}


@pytest.mark.parametrize("allowed", [None, (0, 1, 2), (1, 2)])
def test_bans_are_the_definition_s(allowed: tuple[int, ...] | None):
    generator = random.Random(0)
    for _ in range(300):
        sampling = SamplingParams(
            max_tokens=9,
            allowed_token_ids=allowed,
            bad_token_ids=tuple(generator.sample(RUNS, 4)),
            stop_token_ids=tuple(generator.sample(range(VOCAB), 2)),
            min_tokens=generator.randrange(4),
        )
        output = generator.choices(range(VOCAB), k=generator.randrange(6))
        most_hidden = RequestEdits.of(sampling, VOCAB).num_hidden
        logits = torch.zeros(VOCAB)
        apply_rules(logits, sampling, output)
        kept = set(range(VOCAB) if allowed is None else allowed)
        expected = kept - set(logits.isfinite().nonzero().flatten().tolist())
        for num_hidden in range(min(len(output), most_hidden) + 1):
            assert banned(sampling, output, num_hidden) & kept == expected


@pytest.mark.parametrize(
    ("changes", "num_known"),
    [
        ({"presence_penalty": 1.0}, 0),
        ({"bad_token_ids": ((0,), (1,))}, 0),
        ({"stop_token_ids": (0, 1, 2, 3), "min_tokens": 9}, 0),
        ({"bad_token_ids": ((0,), (1, 2))}, 6),
        ({"bad_token_ids": ((0,), (1, 2)), "allowed_token_ids": (0, 2)}, 7),
        ({"grammar": "start: /a/", "bad_token_ids": ((1, 2),)}, 7),
    ],
)
def test_the_host_must_know_what_the_device_cannot_decide(
    changes: dict[str, object], num_known: int
):
    edits = RequestEdits.of(SamplingParams(max_tokens=1, **changes), VOCAB)
    assert edits.num_known(7) == num_known


def test_a_plain_request_has_none():
    sampling = SamplingParams(max_tokens=1, stop_token_ids=(2,), logprobs=1, top_k=3)
    assert RequestEdits.of(sampling, VOCAB) is None
