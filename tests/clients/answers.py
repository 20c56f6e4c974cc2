"""Answers of every kind that the API gives, each with the name of OpenAI's schema for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx

from .conftest import Host
from .test_openai import CALLED

Json = dict[str, Any]
LOOK = {
    "type": "function",
    "function": {"name": "Look", "parameters": {"type": "object", "properties": {"city": {}}}},
}
FLAT = {"type": "function", **LOOK["function"]}
CHAT, COMPLETE, RESPOND = "/v1/chat/completions", "/v1/completions", "/v1/responses"
TALK = {"model": "fake", "messages": [{"role": "user", "content": "Hi"}]}
SAID = f"<think>Hm.</think>Well.{CALLED}{CALLED}"
USAGE = {"stream_options": {"include_usage": True}}


def all_answers(host: Host) -> Iterator[tuple[str, Json]]:
    """Schema names are those of OpenAI's document of its API."""
    with httpx.Client(base_url=host.url) as client:
        host.engine.say(SAID)
        yield from _chats(client)
        yield from _responses(client)
        host.engine.say("Grüezi")
        yield from _completions(client)
        yield from _others(client)
        yield from _errors(client)
        host.engine.dies_at = 3
        yield from _deaths(client)


def _chats(client: httpx.Client) -> Iterator[tuple[str, Json]]:
    for fields in (
        {"tools": [LOOK]},
        {"n": 2, "logprobs": True, "top_logprobs": 2},
        {"max_completion_tokens": 3},
        {"tools": [LOOK], "return_token_ids": True, "prompt_logprobs": 1},
    ):
        yield "CreateChatCompletionResponse", client.post(CHAT, json=TALK | fields).json()
    for fields in ({"tools": [LOOK]}, {"logprobs": True}, {"return_token_ids": True}):
        for chunk in _events(client, CHAT, TALK | fields | USAGE):
            yield "CreateChatCompletionStreamResponse", chunk


def _completions(client: httpx.Client) -> Iterator[tuple[str, Json]]:
    ask = {"model": "fake", "prompt": ["Hi", "you"]}
    for fields in ({}, {"logprobs": 2, "echo": True}, {"best_of": 2}, {"return_token_ids": True}):
        yield "CreateCompletionResponse", client.post(COMPLETE, json=ask | fields).json()
        if "best_of" not in fields:
            for chunk in _events(client, COMPLETE, ask | fields | USAGE):
                yield "CreateCompletionResponse", chunk


def _responses(client: httpx.Client) -> Iterator[tuple[str, Json]]:
    ask = {"model": "fake", "input": "Hi"}
    form = {"type": "json_schema", "name": "x", "schema": {"type": "integer"}, "strict": True}
    for fields in ({"tools": [FLAT]}, {"max_output_tokens": 9}, {"text": {"format": form}}):
        response = client.post(RESPOND, json=ask | fields).json()
        yield "Response", response
        yield "Response", client.get(f"{RESPOND}/{response['id']}").json()
        for event in _events(client, RESPOND, ask | fields):
            yield "ResponseStreamEvent", event
    response = client.post(RESPOND, json=ask | {"background": True}).json()
    yield "Response", response
    yield "Response", client.post(f"{RESPOND}/{response['id']}/cancel").json()


def _others(client: httpx.Client) -> Iterator[tuple[str, Json]]:
    yield "ListModelsResponse", client.get("/v1/models").json()
    yield "Model", client.get("/v1/models/fake").json()
    embed = {"model": "fake", "input": ["Hi", "you"]}
    yield "CreateEmbeddingResponse", client.post("/v1/embeddings", json=embed).json()


def _errors(client: httpx.Client) -> Iterator[tuple[str, Json]]:
    for path, body in (
        (CHAT, {}),
        (CHAT, TALK | {"model": "gpt-9"}),
        (CHAT, TALK | {"temperature": "hot"}),
        (COMPLETE, {"model": "fake", "prompt": "x" * 5000}),
        (COMPLETE, {"model": "fake", "prompt": "Hi", "timeout": 1e-9}),
        ("/v1/nowhere", {}),
        (RESPOND, {"model": "fake", "input": []}),
        ("/v1/models", {}),
    ):
        answer = client.post(path, json=body)
        assert answer.is_error
        yield "ErrorResponse", answer.json()
    yield "ErrorResponse", client.post(CHAT, content="{").json()
    yield "ErrorResponse", client.post(CHAT, content="x" * 200_000).json()


def _deaths(client: httpx.Client) -> Iterator[tuple[str, Json]]:
    *_, last = _events(client, CHAT, TALK)
    yield "ErrorResponse", last
    for event in _events(client, RESPOND, {"model": "fake", "input": "Hi"}):
        yield "ResponseStreamEvent", event
    yield "ErrorResponse", client.post(CHAT, json=TALK).json()


def _events(client: httpx.Client, path: str, body: Json) -> Iterator[Json]:
    for line in client.post(path, json=body | {"stream": True}).text.splitlines():
        if line.startswith("data: {"):
            yield json.loads(line[len("data: ") :])
