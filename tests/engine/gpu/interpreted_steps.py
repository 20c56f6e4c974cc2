"""Run by test_interpreted in a process of its own: what steps look like changes no bit.

One run has room for everything. In the other one prompts are cut, prefixes found, requests
preempted, slots used again, and steps start before the last one's tokens are known.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from qoq.engine.engine import Engine
from qoq.engine.llm import Completion
from qoq.engine.logprobs import token_logprobs
from qoq.engine.sampler import SampleRow, sample
from qoq.quantize.quantize import quantize_model
from qoq.quantize.recipe import Recipe
from qoq.scheduler import scheduler
from qoq.scheduler.request import Pooling, SamplingParams

from ...kernels.gpu import interpreter  # noqa: F401
from ..manual_steps import random_tokens
from ..talking_model import BOS, EOS, byte_tokenizer
from ..tiny_model import write_tiny_model
from .recorded_engine import GpuModel, RecordingRunner, complete

# numpy's, of rows that are padding.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

VOCAB = 272
TRUNK = random_tokens(66, 256)
LETTERS = tuple(range(ord("a"), ord("k")))
REQUESTS: dict[str, tuple[list[int], SamplingParams]] = {
    "grows into a second block": (
        random_tokens(57, 256, seed=1),
        SamplingParams(max_tokens=9, temperature=0.0),
    ),
    "log-probabilities": (TRUNK, SamplingParams(max_tokens=8, temperature=0.0, logprobs=3)),
    "is preempted": (
        [1, 2, 3, 4, 5],
        SamplingParams(max_tokens=9, temperature=1.2, top_k=40, top_p=0.95, seed=2**63 + 7),
    ),
    "finds a prefix": ([*TRUNK[:64], 7, 8], SamplingParams(max_tokens=3, min_p=0.01, seed=5)),
    "penalties": (
        [9, 9, 8],
        SamplingParams(
            max_tokens=5,
            temperature=0.0,
            presence_penalty=1.5,
            frequency_penalty=-2.0,
            repetition_penalty=1.3,
            logprobs=0,
        ),
    ),
    "rules": (
        [70, 71],
        SamplingParams(
            max_tokens=5,
            seed=3,
            allowed_token_ids=LETTERS,
            logit_bias=((LETTERS[0], 20.0), (LETTERS[1], 20.0)),
            bad_token_ids=((LETTERS[0], LETTERS[0]), (LETTERS[1], LETTERS[1])),
            stop_token_ids=LETTERS[:1],
            min_tokens=3,
        ),
    ),
    "grammar": (
        [80],
        SamplingParams(
            max_tokens=5, seed=4, grammar='start: /[xyz]{3}/ "!"', stop_token_ids=(EOS,)
        ),
    ),
    "prompt log-probabilities": (
        random_tokens(27, 256, seed=2),
        SamplingParams(max_tokens=1, prompt_logprobs=2),
    ),
    "embedding": (
        random_tokens(27, 256, seed=3),
        SamplingParams(max_tokens=1, pooling=Pooling.MEAN),
    ),
}
NAMES = list(REQUESTS)
PROMPTS = [prompt for prompt, _ in REQUESTS.values()]
SAMPLING = [sampling for _, sampling in REQUESTS.values()]


@dataclass
class Run:
    engine: Engine
    runner: RecordingRunner
    done: list[Completion]
    num_host_blocks: int


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("talking")
    ids = {"bos_token_id": BOS, "eos_token_id": EOS}
    dense = write_tiny_model(path / "dense", vocab_size=VOCAB, num_hidden_layers=1, **ids)
    byte_tokenizer().save(str(dense / "tokenizer.json"))
    recipe = Recipe(group_size=32, int8_lm_head=True)
    return quantize_model(dense, path / "w4a8kv4", recipe=recipe, progress=False)


@pytest.fixture(scope="module")
def model(folder: Path) -> GpuModel:
    return GpuModel.load(folder, torch.float16)


def run(model: GpuModel, **settings: object) -> Run:
    engine, runner = model.engine(**settings)
    num_host_blocks = settings.get("num_host_blocks", 0)
    return Run(engine, runner, complete(engine, PROMPTS, SAMPLING), num_host_blocks)


@pytest.fixture(scope="module")
def calm(model: GpuModel) -> Run:
    return run(
        model,
        num_blocks=32,
        max_num_seqs=16,
        max_num_batched_tokens=512,
        steps_in_flight=1,
        enable_prefix_caching=False,
        uses_graphs=False,
    )


@pytest.fixture(scope="module", params=[pytest.param(0, id="again"), pytest.param(6, id="swapped")])
def pressed(model: GpuModel, request: pytest.FixtureRequest) -> Iterator[Run]:
    """What a preempted request has computed is computed again, or comes back from the host."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scheduler, "_RESERVED_STEPS", 0)
        yield run(
            model,
            num_blocks=4,
            num_host_blocks=request.param,
            max_num_seqs=3,
            max_num_batched_tokens=24,
            steps_in_flight=2,
        )


def test_the_pressed_run_was_under_pressure(pressed: Run):
    stats = pressed.engine.stats()
    items = [batch.scheduled for batch in pressed.runner.batches]
    assert stats.num_preemptions > 0
    assert stats.prefix_cache_hits >= 64
    assert any(not item.samples for step in items for item in step if item.end < 57)
    for name in ("prompt log-probabilities", "embedding"):
        request_id = str(NAMES.index(name))
        assert sum(item.request_id == request_id for step in items for item in step) > 1
    assert any({1} < {item.num_scheduled_tokens for item in step} for step in items)
    resumed = [item.new for step in items for item in step if item.new]
    assert any(len(new.token_ids) > new.num_prompt_tokens + 1 for new in resumed)
    assert pressed.runner.num_unknown_tokens > 0
    swaps = [len(batch.swap_in.sources) for batch in pressed.runner.batches]
    assert (sum(swaps) > 0) == (pressed.num_host_blocks > 0)


@pytest.mark.parametrize("index", range(len(NAMES)), ids=NAMES)
def test_no_bit_depends_on_how_steps_are_made(calm: Run, pressed: Run, index: int):
    for position in range(len(calm.done[index].token_ids)):
        key = (str(index), len(PROMPTS[index]) + position)
        (alone,) = calm.runner.logits[key]
        assert all(torch.equal(alone, row) for row in pressed.runner.logits[key]), key
    expected, found = calm.done[index], pressed.done[index]
    assert expected.finish_reason == found.finish_reason
    for what in ("token_ids", "logprobs", "prompt_logprobs", "embedding"):
        assert getattr(expected, what) == getattr(found, what), what


@pytest.mark.parametrize("index", range(len(NAMES)), ids=NAMES)
def test_tokens_are_those_of_the_sampler_s_definition(pressed: Run, index: int):
    prompt, sampling, tokens = PROMPTS[index], SAMPLING[index], pressed.done[index].token_ids
    for count, token in enumerate(tokens):
        matcher = None
        if sampling.grammar is not None:
            matcher = pressed.runner.grammars.matcher(sampling.grammar, tokens[:count])
        row = SampleRow(sampling, prompt + tokens[:count], len(prompt), matcher)
        logits = pressed.runner.logits[str(index), len(prompt) + count][0]
        assert sample(logits[None].clone(), [row]) == [token]


def test_log_probabilities_are_those_of_the_definition(pressed: Run):
    index = NAMES.index("log-probabilities")
    for count, found in enumerate(pressed.done[index].logprobs):
        logits = pressed.runner.logits[str(index), len(PROMPTS[index]) + count][0]
        (expected,) = token_logprobs(logits[None], [found.token_id], [3])
        assert (found.rank, found.top_ids) == (expected.rank, expected.top_ids)
        assert found.logprob == pytest.approx(expected.logprob, rel=1e-5)
        assert found.top_logprobs == pytest.approx(expected.top_logprobs, rel=1e-5)


def test_requests_got_what_they_asked_for(pressed: Run):
    done = dict(zip(NAMES, pressed.done, strict=True))
    text = bytes(done["grammar"].token_ids[:4]).decode()
    assert text[-1] == "!" and set(text[:3]) <= set("xyz")
    rules = done["rules"].token_ids
    assert set(rules) <= set(LETTERS) and LETTERS[0] not in rules[:3]
    assert (LETTERS[1], LETTERS[1]) not in pairwise(rules)
    assert len(done["log-probabilities"].logprobs) == 8
    assert [len(p.top_ids) for p in done["prompt log-probabilities"].prompt_logprobs] == [2] * 26
    assert sum(x * x for x in done["embedding"].embedding) == pytest.approx(1.0, abs=1e-5)
