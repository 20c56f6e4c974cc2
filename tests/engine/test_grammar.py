"""Output that follows a grammar: always, in any company, across preemptions, and else an error."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from llguidance import LLMatcher, LLParserLimits

from qoq.engine import grammar as grammar_module
from qoq.engine.config import CPU_KV_CACHE_BYTES, EngineConfig
from qoq.engine.grammar import MAX_GRAMMAR_CHARS, GrammarError, Grammars
from qoq.engine.grammar_mask import grammar_masks
from qoq.engine.llm import LLM
from qoq.engine.protocol import FinishReason, SamplingParams

from .talking_model import BOS, EOS, byte_tokenizer, text_of, write_talking_model

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "ages": {"type": "array", "items": {"type": "integer", "maximum": 99}, "maxItems": 3},
        "mood": {"enum": ["glad", "sad", None]},
    },
    "required": ["name", "ages", "mood"],
    "additionalProperties": False,
}
OPTIONS = {"whitespace_flexible": False}
JSON = LLMatcher.grammar_from_json_schema(json.dumps(SCHEMA), overrides=OPTIONS)
REGEX = LLMatcher.grammar_from_regex("(ab|c){3,9}é")
PROMPT = [BOS, *b"Say something:"]


@pytest.fixture(scope="session")
def talking_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_talking_model(tmp_path_factory.mktemp("talking") / "dense")


@pytest.fixture(scope="module")
def llm(talking_model: Path) -> Iterator[LLM]:
    llm = LLM(EngineConfig(model=talking_model, num_threads=1))
    yield llm
    llm.close()


def sampling(grammar: str | None, seed: int = 0, **settings: object) -> SamplingParams:
    return SamplingParams(
        max_tokens=150, seed=seed, stop_token_ids=(EOS,), grammar=grammar, **settings
    )


def mixed_sampling() -> list[SamplingParams]:
    """Greedy and sampled ones, every third without a grammar."""
    grammars = [JSON, REGEX, None]
    return [
        sampling(grammars[seed % 3], seed, temperature=0.0 if seed % 4 == 3 else 1.5)
        for seed in range(24)
    ]


def test_a_random_model_says_what_the_grammar_allows(llm: LLM) -> None:
    completions = llm.generate([PROMPT] * 24, mixed_sampling())
    for completion, asked in zip(completions, mixed_sampling(), strict=True):
        if asked.grammar is None:
            continue
        assert completion.finish_reason is FinishReason.STOP
        text = text_of(completion.token_ids)
        if asked.grammar == REGEX:
            assert re.fullmatch("(ab|c){3,9}é", text)
        else:
            said = json.loads(text)
            assert list(said) == ["name", "ages", "mood"] and len(said["name"]) <= 12
            assert len(said["ages"]) <= 3 and all(age <= 99 for age in said["ages"])


def test_tokens_do_not_depend_on_company_or_preemption(llm: LLM, talking_model: Path) -> None:
    prompts = [[BOS, *bytes(range(65, 65 + seed))] for seed in range(24)]
    alone = [llm.generate([p], s)[0] for p, s in zip(prompts, mixed_sampling(), strict=True)]
    per_block = CPU_KV_CACHE_BYTES // llm.info.num_blocks
    tight = LLM(EngineConfig(model=talking_model, kv_cache_bytes=5 * per_block, max_model_len=200))
    try:
        together = tight.generate(prompts, mixed_sampling())
        assert tight.engine.stats().num_preemptions > 0
    finally:
        tight.close()
    assert [c.token_ids for c in together] == [c.token_ids for c in alone]


def test_the_grammar_wins_over_parameters_that_leave_nothing_of_it(llm: LLM) -> None:
    only_a = sampling(LLMatcher.grammar_from_regex("a"), min_tokens=9)
    (completion,) = llm.generate([PROMPT], only_a)
    assert completion.token_ids == [*b"a", EOS]
    assert completion.finish_reason is FinishReason.STOP


def test_a_grammar_that_grows_past_the_limits_ends_its_request_alone(
    talking_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammar_module, "_LIMITS", LLParserLimits(step_max_items=12))
    ambiguous = LLMatcher.grammar_from_lark('start: x*\nx: "a" | x x | "b"? x | "a" x "a"')
    llm = LLM(EngineConfig(model=talking_model, num_threads=1))
    try:
        failed, other = llm.generate([PROMPT] * 2, [sampling(ambiguous), sampling(None)])
    finally:
        llm.close()
    assert failed.finish_reason is FinishReason.ABORT
    assert other.finish_reason in (FinishReason.STOP, FinishReason.LENGTH)


def test_a_bad_grammar_is_refused_before_anything_runs(llm: LLM) -> None:
    with pytest.raises(GrammarError, match="unclosed"):
        llm.generate([PROMPT], sampling(LLMatcher.grammar_from_regex("(a")))
    assert not llm.engine.has_work


def grammars(**changes: object) -> Grammars:
    settings = {"tokenizer": byte_tokenizer().to_str(), "vocab_size": 272, "eos_token_ids": [EOS]}
    return Grammars(**(settings | changes))


@pytest.mark.parametrize(
    ("changes", "grammar", "words"),
    [
        ({}, "x" * (MAX_GRAMMAR_CHARS + 1), "65537 characters"),
        ({}, LLMatcher.grammar_from_lark('start: "a" b'), 'unknown name: "b"'),
        ({"eos_token_ids": []}, REGEX, "no end-of-sequence token"),
        ({"tokenizer": Path("/nowhere/tokenizer.json")}, REGEX, "tokenizer.json is missing"),
        ({"tokenizer": "{}"}, REGEX, "cannot be used with grammars"),
    ],
)
def test_what_cannot_be_compiled_is_said(changes: dict[str, object], grammar: str, words: str):
    with pytest.raises(GrammarError, match=words):
        grammars(**changes).compile(grammar)


def test_matchers_of_one_grammar_go_their_own_ways() -> None:
    compiler = grammars()
    first, second = (compiler.matcher(REGEX) for _ in range(2))
    first.advance(b"a")
    masks = grammar_masks([first, second, compiler.matcher(REGEX, list(b"a"))], 272)
    assert not torch.equal(masks[0], masks[1])
    assert torch.equal(masks[0], masks[2])
    second.advance(b"x")
    assert second.has_failed and not first.has_failed


def test_forgets_the_grammar_that_was_not_used_for_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar_module, "_MAX_COMPILED", 2)
    compiler, compiled = grammars(), []
    original = compiler._compile
    monkeypatch.setattr(compiler, "_compile", lambda text: compiled.append(text) or original(text))
    texts = [LLMatcher.grammar_from_regex(letter) for letter in "abc"]
    for place in (0, 1, 0, 2, 0, 1):
        compiler.compile(texts[place])
    assert [texts.index(text) for text in compiled] == [0, 1, 2, 1]
