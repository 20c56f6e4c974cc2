"""The GPU engine on logits that are known beforehand: the real scheduler, runner and sampler.

So each token of each request has an expected value, which the sampler's definition gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor

from qoq.engine.engine import Engine
from qoq.engine.gpu.inputs import StepInputs
from qoq.engine.gpu.layers import W8A8Linear
from qoq.engine.gpu.runner import GpuModelRunner
from qoq.engine.gpu.sampling.gpu_sampler import GpuSampler
from qoq.engine.gpu.sampling.sampled_row import SampledRow
from qoq.engine.grammar import Grammars
from qoq.engine.llm import Completion
from qoq.engine.logprobs import token_logprobs
from qoq.engine.models.config import parse_model_config
from qoq.engine.sampler import SampleRow, sample
from qoq.kernels.kv_cache import KvFormat
from qoq.scheduler.config import SchedulerConfig
from qoq.scheduler.request import FinishReason, Request, SamplingParams
from qoq.scheduler.scheduler import Scheduler
from qoq.scheduler.stats import SchedulerStats

from ..talking_model import EOS, byte_tokenizer
from ..tiny_model import SHAPE

MAX_MODEL_LEN = 256
FORMAT = KvFormat(2, 16)
CONFIG = parse_model_config({"architectures": ["LlamaForCausalLM"], "rms_norm_eps": 1e-6} | SHAPE)

A, B, C, X, Y, Z = b"abcxyz"
LETTERS = (A, B, C, X, Y, Z)
LONG = [*b"abcabc" * 10]
GREEDY = {"max_tokens": 11, "temperature": 0.0}
DRAWN = {"max_tokens": 11, "top_k": 5}
PENALTIES = {"presence_penalty": 1.5, "frequency_penalty": 0.75, "repetition_penalty": 1.3}
GRAMMAR = 'start: /[a-z]{6,9}/ "!"'

REQUESTS: dict[str, tuple[list[int], dict[str, object]]] = {
    "penalties": (LONG, GREEDY | PENALTIES | {"logprobs": 2}),
    "bad words": (
        LONG,
        DRAWN | {"bad_token_ids": ((Z,), (A, B), (B, A), (C, C), (A, C, X), (X, A, X, B))},
    ),
    "few allowed": (
        LONG[1:],
        DRAWN | PENALTIES | {"allowed_token_ids": (A, B, X, 200), "bad_token_ids": ((A, A),)},
    ),
    "grammar and all else": (
        LONG[2:],
        GREEDY
        | PENALTIES
        | {
            "grammar": GRAMMAR,
            "stop_token_ids": (EOS, A),
            "min_tokens": 4,
            "bad_token_ids": ((B, B), (C, B), (*b"!", EOS)),
            "logit_bias": ((C, 1.0),),
            "logprobs": 1,
        },
    ),
    "plain": ([A], GREEDY),
    "penalties of the output": ([A], DRAWN | {"frequency_penalty": 2.0, "seed": 2**63 + 1}),
    "rewards": ([X, Y], DRAWN | {"repetition_penalty": 0.7, "presence_penalty": -1.0}),
    "no stop yet": ([B], GREEDY | {"stop_token_ids": LETTERS[:5], "min_tokens": 7}),
    "biases and bans": (
        [C],
        DRAWN | PENALTIES | {"logit_bias": ((A, 3.0), (B, -3.0)), "bad_token_ids": ((A,), (B, B))},
    ),
    "bans give way": ([A], DRAWN | {"allowed_token_ids": (A, B), "bad_token_ids": ((A,), (A, B))}),
    "grammar": ([X], DRAWN | PENALTIES | {"grammar": GRAMMAR, "stop_token_ids": (EOS,)}),
    "grammar of what is not allowed": (
        [A],
        GREEDY | {"grammar": GRAMMAR, "stop_token_ids": (EOS,), "allowed_token_ids": (EOS, 1)},
    ),
}
NAMES = list(REQUESTS)
ABORTED, ABORTED_AT = "penalties", 9


def prompt_of(name: str) -> list[int]:
    return REQUESTS[name][0]


def sampling_of(name: str) -> SamplingParams:
    return SamplingParams(**REQUESTS[name][1])


def make_grammars(vocab_size: int) -> Grammars:
    return Grammars(byte_tokenizer().to_str(), vocab_size, [EOS])


@cache
def logits_of(name: str, position: int, vocab_size: int) -> Tensor:
    """Fp32 ``[V]``; the letters of all requests are likely, so that what came matters."""
    seed = 1000 * NAMES.index(name) + position
    logits = torch.randn(vocab_size, generator=torch.Generator().manual_seed(seed))
    logits[list(LETTERS)] = logits[list(LETTERS)] / 2 + 8
    return logits


def expected_tokens(name: str, vocab_size: int) -> list[int]:
    """By the definition, one token after the other."""
    prompt, sampling = prompt_of(name), sampling_of(name)
    tokens: list[int] = []
    grammars = make_grammars(vocab_size)
    while len(tokens) < sampling.max_tokens:
        grammar = sampling.grammar
        matcher = None if grammar is None else grammars.matcher(grammar, tokens)
        row = SampleRow(sampling, prompt + tokens, len(prompt), matcher)
        logits = logits_of(name, len(prompt) + len(tokens), vocab_size)
        tokens += sample(logits[None].clone(), [row])
        if tokens[-1] in sampling.stop_token_ids:
            break
    return tokens


class GivenLogitsRunner(GpuModelRunner):
    """``most_hidden`` of a request's tokens the host did not know when it sampled another."""

    def __init__(self, vocab_size: int, device: torch.device, max_num_seqs: int) -> None:
        inputs = StepInputs(
            CONFIG,
            FORMAT,
            torch.zeros(MAX_MODEL_LEN, 3, 8, device=device),
            max_rows=MAX_MODEL_LEN,
            max_num_seqs=max_num_seqs,
            max_model_len=MAX_MODEL_LEN,
            num_blocks=1,
        )
        head, embedding = Mock(spec=W8A8Linear), torch.zeros(vocab_size, 1, device=device)
        super().__init__(
            SimpleNamespace(lm_head=head, embedding=embedding),
            [],
            inputs,
            GpuSampler(max_num_seqs, vocab_size, device),
            make_grammars(vocab_size),
            swapper=None,
            max_num_seqs=max_num_seqs,
            uses_graphs=False,
        )
        self.most_hidden = dict.fromkeys(NAMES, 0)
        self._vocab_size = vocab_size
        sample = self._sampler.sample

        def counting(logits: Tensor, rows: Sequence[SampledRow], *args: Tensor) -> object:
            for name, row in zip(self._names, rows, strict=True):
                hidden = row.position - len(row.state.token_ids)
                self.most_hidden[name] = max(self.most_hidden[name], hidden)
            return sample(logits, rows, *args)

        self._sampler.sample = counting

    def _logits(self, plan: object, places: list[int], is_in_order: bool) -> Tensor:
        self._inputs.set_rows(plan.rows, len(plan.rows))
        name_of = {place: name for name, place in plan.last_row.items()}
        self._names = [name_of[place] for place in places]
        logits = torch.empty(len(places), self._vocab_size)
        for row, place in enumerate(places):
            position = plan.rows.positions[place] + 1
            logits[row] = logits_of(name_of[place], position, self._vocab_size)
        if self._inputs.last_tokens.is_cuda:
            logits = logits.pin_memory()
        return logits.to(self._inputs.last_tokens.device, non_blocking=True)


def limits(max_num_seqs: int, num_blocks: int) -> SchedulerConfig:
    return SchedulerConfig(
        num_blocks=num_blocks,
        block_size=FORMAT.block_size,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=128,
        max_model_len=MAX_MODEL_LEN,
        separates_output=True,
    )


def run(
    runner: GivenLogitsRunner, steps_in_flight: int, config: SchedulerConfig
) -> tuple[dict[str, Completion], SchedulerStats]:
    """All requests, of which one is aborted soon and comes again at once, by the same name."""
    engine = Engine(Scheduler(config), runner, steps_in_flight)
    done = {name: Completion() for name in NAMES}
    for name in NAMES:
        engine.add(request(name))
    num_steps = 0
    while engine.has_work:
        if (num_steps := num_steps + 1) == ABORTED_AT:
            engine.abort(ABORTED)
            engine.add(request(ABORTED))
        for output in engine.step():
            if output.finish_reason is FinishReason.ABORT:
                assert output.request_id == ABORTED and done[ABORTED].token_ids
                done[ABORTED] = Completion()
            else:
                done[output.request_id].add(output)
    return done, engine.stats()


def request(name: str) -> Request:
    return Request(request_id=name, prompt_token_ids=prompt_of(name), sampling=sampling_of(name))


def check_logprobs(name: str, done: Completion, vocab_size: int) -> None:
    """Of logits as they were before anything changed them."""
    prompt, num_top = prompt_of(name), sampling_of(name).logprobs
    assert len(done.logprobs) == (0 if num_top is None else len(done.token_ids))
    for place, found in enumerate(done.logprobs):
        logits = logits_of(name, len(prompt) + place, vocab_size)
        (expected,) = token_logprobs(logits[None], [found.token_id], [num_top])
        assert (found.rank, found.top_ids) == (expected.rank, expected.top_ids)
        assert found.logprob == pytest.approx(expected.logprob, rel=1e-5)
        assert found.top_logprobs == pytest.approx(expected.top_logprobs, rel=1e-5)
