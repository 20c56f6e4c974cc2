"""Structured output through HTTP, the engine process and a random model: always in the form asked.

The model's text is random, so what makes it valid is the grammar alone.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import httpx
import jsonschema
import pytest

from .random_schema import random_schema

# The engine process serves all of this module, so its tests share an event loop.
pytestmark = pytest.mark.asyncio(loop_scope="module")

MODEL = {"model": "dense"}
NUM_IN_FLIGHT = 16


async def chat(client: httpx.AsyncClient, stream: bool, **fields: Any) -> tuple[str, str]:
    """Text and finish reason."""
    body = MODEL | {"messages": [{"role": "user", "content": "Go on."}], "stream": stream} | fields
    answer = await client.post("/v1/chat/completions", json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    if not stream:
        (choice,) = answer.json()["choices"]
        return choice["message"]["content"], choice["finish_reason"]
    chunks = [
        json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")
    ]
    choices = [chunk["choices"][0] for chunk in chunks]
    text = "".join(choice["delta"].get("content") or "" for choice in choices)
    return text, choices[-1]["finish_reason"]


async def check_schemas(client: httpx.AsyncClient, seeds: range) -> None:
    gate = asyncio.Semaphore(NUM_IN_FLIGHT)

    async def check(seed: int, stream: bool) -> str:
        schema = random_schema(seed)
        jsonschema.Draft202012Validator.check_schema(schema)
        wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        async with gate:
            text, reason = await chat(client, stream, response_format=wanted, seed=seed)
        assert reason == "stop", (seed, text)
        jsonschema.validate(json.loads(text), schema, format_checker=jsonschema.FormatChecker())
        return text

    whole = await asyncio.gather(*(check(seed, False) for seed in seeds))
    streamed = await asyncio.gather(*(check(seed, True) for seed in seeds))
    assert whole == streamed
    assert len(set(whole)) > len(seeds) // 2, "the model says the same to everything"


async def test_json_is_valid_for_20_random_schemas(talker: httpx.AsyncClient) -> None:
    await check_schemas(talker, range(20))


@pytest.mark.slow
async def test_json_is_valid_for_200_random_schemas(talker: httpx.AsyncClient) -> None:
    await check_schemas(talker, range(1000, 1200))


async def test_each_other_form_is_kept(talker: httpx.AsyncClient) -> None:
    gbnf = 'root ::= "yes" | "no" digit+\ndigit ::= [0-9]'
    lark = 'start: "(" start? ")"'
    choices = ["red", "deep blue", 'a "quoted" é']
    forms: list[tuple[dict[str, Any], Any]] = [
        ({"structured_outputs": {"regex": r"\d{3}-[a-f]+x"}}, r"\d{3}-[a-f]+x"),
        ({"guided_regex": "/a|b/"}, "/a|b/"),
        ({"structured_outputs": {"choice": choices}}, "|".join(map(re.escape, choices))),
        ({"guided_choice": ["one"]}, "one"),
        ({"structured_outputs": {"grammar": gbnf}}, r"yes|no\d+"),
        ({"guided_grammar": lark}, r"\(+\)+"),
        ({"guided_json": '{"enum": [1, "x"]}'}, '1|"x"'),
        ({"structured_outputs": {"json": {"type": "boolean"}}}, "true|false"),
    ]
    texts = await asyncio.gather(*(chat(talker, False, **fields) for fields, _ in forms))
    for (text, reason), (fields, form) in zip(texts, forms, strict=True):
        assert reason == "stop" and re.fullmatch(form, text), (fields, text)


async def test_json_object_begins_one(talker: httpx.AsyncClient) -> None:
    """Nothing bounds an object of a random model, so only its beginning is sure to come."""
    text, _ = await chat(talker, False, response_format={"type": "json_object"}, max_tokens=40)
    assert re.match(r"\{\s*[\"}]", text)


async def test_plain_completions_take_it_too_and_ignore_eos_does_not_run_on(
    talker: httpx.AsyncClient,
) -> None:
    fields = {"guided_choice": ["left", "right"], "ignore_eos": True, "n": 3, "max_tokens": 90}
    answer = await talker.post("/v1/completions", json=MODEL | {"prompt": ["a", "b"]} | fields)
    choices = answer.json()["choices"]
    assert len(choices) == 6
    for choice in choices:
        assert choice["text"] in ("left", "right") and choice["finish_reason"] == "stop"
