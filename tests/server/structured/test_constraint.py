"""Fields that ask for a form: the grammar that reaches the engine, and each mistake's 400."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from qoq.engine.protocol import FinishReason
from qoq.server.structured import checker

CHAT = {"model": "fake", "messages": [{"role": "user", "content": "Hi"}]}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


def json_schema(schema: object, **fields: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, **fields}}


def grammar_of(engine: Any) -> dict[str, Any]:
    parts: list[dict[str, Any]] = json.loads(engine.requests[-1].sampling.grammar)["grammars"]
    assert len(parts) == 1
    return parts[0]


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": json_schema(SCHEMA, strict=True, description="d")},
        {"structured_outputs": {"json": SCHEMA}},
        {"structured_outputs": {"json": json.dumps(SCHEMA)}},
        {"guided_json": SCHEMA},
    ],
)
async def test_each_name_of_a_schema_is_the_same(
    client: httpx.AsyncClient, engine: Any, fields: dict[str, Any]
) -> None:
    assert (await client.post("/v1/chat/completions", json=CHAT | fields)).status_code == 200
    schema = grammar_of(engine)["json_schema"]
    assert schema.pop("x-guidance")["lenient"] is False
    assert schema == SCHEMA


async def test_no_form_means_no_grammar(client: httpx.AsyncClient, engine: Any) -> None:
    for fields in ({}, {"response_format": {"type": "text"}}, {"guided_json": None}):
        await client.post("/v1/chat/completions", json=CHAT | fields)
        assert engine.requests[-1].sampling.grammar is None


async def test_ignore_eos_does_not_keep_a_grammar_from_ending(
    client: httpx.AsyncClient, engine: Any
) -> None:
    fields = {"guided_choice": ["a"], "ignore_eos": True}
    await client.post("/v1/chat/completions", json=CHAT | fields)
    assert engine.requests[-1].sampling.stop_token_ids == (257,)


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"response_format": json_schema({"type": "thing"})}, "response_format"),
    ({"response_format": json_schema({"not": {}})}, "response_format"),
    ({"response_format": {"type": "json_schema"}}, "response_format"),
    ({"response_format": {"type": "xml"}}, "response_format.type"),
    (
        {"response_format": json_schema({}) | {"type": "json_object"}},
        "response_format",
    ),
    ({"structured_outputs": {"regex": "(a"}}, "structured_outputs.regex"),
    ({"structured_outputs": {"grammar": "start: b"}}, "structured_outputs.grammar"),
    ({"structured_outputs": {"grammar": 'x ::= "a'}}, "structured_outputs.grammar"),
    ({"structured_outputs": {"choice": []}}, "structured_outputs.choice"),
    ({"structured_outputs": {"json": "{"}}, "structured_outputs.json"),
    ({"structured_outputs": {}}, "structured_outputs"),
    ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs"),
    ({"guided_json": "[" * 50_000}, "guided_json"),
    ({"guided_regex": "a" * 70_000}, "guided_regex"),
    ({"guided_regex": "a", "response_format": {"type": "json_object"}}, "guided_regex"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("fields", "param"), MISTAKES)
async def test_a_bad_grammar_is_that_requests_400(
    client: httpx.AsyncClient, engine: Any, fields: dict[str, Any], param: str, stream: bool
) -> None:
    answer = await client.post("/v1/chat/completions", json=CHAT | fields | {"stream": stream})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == param and error["message"]
    assert not engine.requests


async def test_a_grammar_that_compiles_too_long_is_refused(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checker, "TIMEOUT_S", 0.0)
    answer = await client.post("/v1/chat/completions", json=CHAT | {"guided_regex": "a{1,99}"})
    assert answer.status_code == 400
    assert "more than 0 s" in answer.json()["error"]["message"]


async def test_a_grammar_that_the_engine_gives_up_is_a_400(
    client: httpx.AsyncClient, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def give_up(request: Any) -> Any:
        yield [], FinishReason.ABORT

    monkeypatch.setattr(engine, "_steps", give_up)
    answer = await client.post("/v1/chat/completions", json=CHAT | {"guided_regex": "a"})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "grammar_too_complex"
