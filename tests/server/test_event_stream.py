"""What goes over the wire of a stream beside its text."""

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import replace

import openai
import pytest
from starlette.types import Message

from qoq.server.app import build_app
from qoq.server.stream import EventStream

from .conftest import served

COMMENT = b": keep-alive\n\n"


async def sent(pauses_s: list[float], keep_alive_s: float) -> list[bytes]:
    """What a client gets of events that come after these pauses."""

    async def events() -> AsyncGenerator[bytes]:
        for place, pause_s in enumerate(pauses_s):
            await asyncio.sleep(pause_s)
            yield b"data: %d\n\n" % place

    bodies: list[bytes] = []

    async def send(message: Message) -> None:
        bodies.append(message.get("body", b""))

    async def receive() -> Message:
        await asyncio.sleep(60)
        raise AssertionError("the client stays")

    await EventStream(events(), keep_alive_s)({"type": "http"}, receive, send)
    return [body for body in bodies if body]


async def test_silence_is_filled_with_comments() -> None:
    first, *rest = await sent([0.0, 0.5], keep_alive_s=0.1)
    assert first == b"data: 0\n\n"
    *comments, last = rest
    assert last == b"data: 1\n\n"
    assert set(comments) == {COMMENT} and 2 <= len(comments) <= 5


async def test_a_stream_that_flows_has_no_comments() -> None:
    assert COMMENT not in await sent([0.02] * 20, keep_alive_s=0.2)


async def test_zero_is_never() -> None:
    assert await sent([0.2], keep_alive_s=0) == [b"data: 0\n\n"]


def test_clients_skip_comments(engine, tokenizer, config) -> None:
    """Also before the first token, where a long prompt is silent."""
    engine.say("ab")
    engine.delay_s = 0.15
    app = build_app(engine, tokenizer, replace(config, keep_alive_s=0.05))
    with (
        served(app) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as official,
    ):
        stream = official.completions.create(model="fake", prompt="Hi", stream=True)
        assert "".join(chunk.choices[0].text for chunk in stream) == "ab"


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
async def test_one_end_for_each_choice_then_usage_then_done(client, engine, path: str) -> None:
    engine.say("ab")
    body = {"model": "fake", "n": 3, "stream": True, "stream_options": {"include_usage": True}}
    body |= (
        {"prompt": "Hi"}
        if path == "/v1/completions"
        else {"messages": [{"role": "user", "content": "Hi"}]}
    )
    *events, done, end = (await client.post(path, json=body)).text.split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    *chunks, usage = [json.loads(event.removeprefix("data: ")) for event in events]
    assert usage["choices"] == [] and usage["usage"]["completion_tokens"] == 9
    ends = [c["index"] for chunk in chunks for c in chunk["choices"] if c["finish_reason"]]
    assert sorted(ends) == [0, 1, 2]
    assert all(len(chunk["choices"]) == 1 and chunk["usage"] is None for chunk in chunks)
    if "chat" in path:
        firsts = [chunk["choices"][0]["delta"] for chunk in chunks[:3]]
        assert firsts == [{"role": "assistant", "content": ""}] * 3
