"""Deltas -> server-sent events, or one body. The client going away ends the work behind either."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing, suppress
from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from qoq.engine.protocol import EngineClient
from qoq.server.answer import AnswerBuilder, ChatBuilder, CompletionBuilder, Json
from qoq.server.choice import Choice, Delta, merge
from qoq.server.detokenizer import Detokenizer, StopStrings
from qoq.server.errors import as_api_error
from qoq.server.generation import Generation
from qoq.server.metrics import Metrics, RequestRecord
from qoq.server.pieces import Pieces

T = TypeVar("T")
_log = logging.getLogger(__name__)


class Answer:
    """One HTTP request's choices on their way out: as ``events`` or as one ``body``."""

    def __init__(
        self,
        generation: Generation,
        engine: EngineClient,
        pieces: Pieces,
        metrics: Metrics,
        model_name: str,
    ) -> None:
        self._generation = generation
        self._engine = engine
        self._pieces = pieces
        self._metrics = metrics
        self._num_tokens = [0] * len(generation.requests)
        head = {"id": generation.id, "created": generation.created_s, "model": model_name}
        if generation.include_usage:
            head["usage"] = None
        self._builder: AnswerBuilder = (
            ChatBuilder(head) if generation.is_chat else CompletionBuilder(head)
        )

    async def events(self) -> AsyncGenerator[bytes]:
        """Always ends in ``[DONE]``; an error on the way is an event of its own."""
        try:
            async with aclosing(self._chunks()) as chunks:
                async for chunk in chunks:
                    yield _event(chunk)
        except Exception as error:
            answer = as_api_error(error)
            if answer.status == 500:
                _log.exception("%s failed in mid-stream", self._generation.id)
            yield _event(answer.body())
        yield b"data: [DONE]\n\n"

    async def body(self) -> bytes:
        num_choices = len(self._generation.requests)
        texts: list[list[str]] = [[] for _ in range(num_choices)]
        reasons = [""] * num_choices
        async with aclosing(self._deltas()) as deltas:
            async for delta in deltas:
                texts[delta.index].append(delta.text)
                reasons[delta.index] = delta.finish_reason or ""
        whole = self._builder.whole(["".join(text) for text in texts], reasons, self._usage())
        return msgspec.json.encode(whole)

    async def _chunks(self) -> AsyncGenerator[Json]:
        builder = self._builder
        for index in range(len(self._generation.requests)):
            if (opening := builder.opening(index)) is not None:
                yield opening
        async with aclosing(self._deltas()) as deltas:
            async for delta in deltas:
                if delta.text:
                    yield builder.delta(delta.index, delta.text)
                if delta.finish_reason is not None:
                    yield builder.final(delta.index, delta.finish_reason)
        if self._generation.include_usage:
            yield builder.usage(self._usage())

    async def _deltas(self) -> AsyncGenerator[Delta]:
        requests = enumerate(self._generation.requests)
        streams = [self._choice(index).deltas(self._engine) for index, _ in requests]
        async with aclosing(merge(streams)) as deltas:
            async for delta in deltas:
                self._num_tokens[delta.index] += delta.num_tokens
                yield delta
        n = self._generation.n
        for start in range(0, len(streams), n):
            self._metrics.record_prompt(self._num_tokens[start : start + n])

    def _choice(self, index: int) -> Choice:
        generation, request = self._generation, self._generation.requests[index]
        return Choice(
            index,
            request,
            Detokenizer(self._pieces, continues_text=not generation.is_chat),
            StopStrings(generation.stops),
            RequestRecord(self._metrics, request),
        )

    def _usage(self) -> Json:
        num_prompt, num_completion = self._generation.num_prompt_tokens, sum(self._num_tokens)
        return {
            "prompt_tokens": num_prompt,
            "completion_tokens": num_completion,
            "total_tokens": num_prompt + num_completion,
        }


class EventStream(Response):
    """Sends events until they end or the client goes, and then closes their generator at once.

    Starlette's own StreamingResponse leaves that to the garbage collector.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes]) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(ClientDisconnect):
            await until_client_goes(receive, self._send(send))

    async def _send(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        async with aclosing(self._events) as events:
            await send(start)
            async for event in events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def until_client_goes(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``. If the client goes, cancels it and raises ClientDisconnect."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _event(data: Json) -> bytes:
    return b"data: " + msgspec.json.encode(data) + b"\n\n"
