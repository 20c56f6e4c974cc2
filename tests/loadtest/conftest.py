"""A server of one script: it plays the same stream to everybody and counts who left too early."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

HEAD = "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\nconnection: close\r\n\r\n"
MODELS = {"object": "list", "data": [{"id": "fake-model", "object": "model"}]}


def event(payload: object) -> bytes:
    return b"data: " + json.dumps(payload, ensure_ascii=False).encode() + b"\n\n"


def text(content: str, **usage: int) -> bytes:
    delta = {"delta": {"content": content}, "finish_reason": None}
    return event({"choices": [delta]} | ({"usage": usage} if usage else {}))


def ending(prompt_tokens: int, completion_tokens: int) -> bytes:
    """What OpenAI's servers close with: the finish reason, the usage, the mark."""
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    return (
        event({"choices": [{"delta": {}, "finish_reason": "length"}]})
        + event({"choices": [], "usage": usage})
        + b"data: [DONE]\n\n"
    )


@dataclass
class FakeServer:
    """``script``: what to send, each piece after its pause in seconds.

    It begins when ``audience`` clients are there, and its last piece waits until ``leavers`` of
    them have left: a test of many clients depends on no timing.
    """

    script: list[tuple[float, bytes]] = field(default_factory=list)
    audience: int = 1
    leavers: int = 0
    status: str = "200 OK"
    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    num_open: int = 0
    max_open: int = 0
    num_left: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_open += 1
        self.max_open = max(self.max_open, self.num_open)
        with suppress(ConnectionError):
            await self._serve(reader, writer)
            writer.close()
            await writer.wait_closed()
        self.num_open -= 1

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        if head.startswith("GET"):
            kind = "application/json"
            writer.write(HEAD.format(status="200 OK", kind=kind).encode())
            writer.write(json.dumps(MODELS).encode())
            return
        length = int(head.lower().split("content-length:")[1].split()[0])
        self.bodies.append(json.loads(await reader.readexactly(length)))
        writer.write(HEAD.format(status=self.status, kind="text/event-stream").encode())
        while self.max_open < self.audience:
            await asyncio.sleep(0.005)
        await self._play(reader, writer)

    async def _play(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        gone = asyncio.ensure_future(connection_end(reader))
        for index, (pause_s, piece) in enumerate(self.script, start=1):
            await asyncio.wait([gone], timeout=pause_s)
            while index == len(self.script) and self.num_left < self.leavers and not gone.done():
                await asyncio.wait([gone], timeout=0.01)
            if gone.done():
                self.num_left += 1
                break
            writer.write(piece)
            with suppress(ConnectionError):  # the next look at `gone` finds out
                await writer.drain()
        gone.cancel()
        with suppress(asyncio.CancelledError):
            await gone


async def connection_end(reader: asyncio.StreamReader) -> None:
    """The client says no more after its request, so whatever can be read is its hanging up."""
    with suppress(ConnectionError):
        await reader.read(1)


@pytest.fixture
def stream() -> Any:
    """The makers of a script's pieces: `stream.text(...)`, `stream.ending(...)`, `stream.event`."""

    class Pieces:
        event = staticmethod(event)
        text = staticmethod(text)
        ending = staticmethod(ending)

    return Pieces


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    fake = FakeServer()
    listener = await asyncio.start_server(fake.serve, "127.0.0.1", 0, backlog=512)
    fake.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    yield fake
    listener.close()
    async with asyncio.timeout(10):
        while fake.num_open:
            await asyncio.sleep(0.001)
