"""Deltas -> server-sent events, or one body. The client going away ends the work behind either."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from qoq.engine.protocol import EngineClient
from qoq.server.builders import Json, builder_of
from qoq.server.choice import Choice, Delta, merge
from qoq.server.errors import as_api_error
from qoq.server.generation import Generation
from qoq.server.metrics import Metrics, RequestRecord
from qoq.server.token_text import TokenText
from qoq.server.tokenizer import Tokenizer

T = TypeVar("T")
_KEEP_ALIVE = b": keep-alive\n\n"
_log = logging.getLogger(__name__)


class Answer:
    """One HTTP request's choices on their way out: as ``events`` or as one ``body``."""

    def __init__(
        self,
        generation: Generation,
        engine: EngineClient,
        tokenizer: Tokenizer,
        metrics: Metrics,
    ) -> None:
        self._generation = generation
        self._engine = engine
        speech = generation.speech
        self._pieces = tokenizer.pieces if speech is None else speech.pieces
        self._metrics = metrics
        self._num_tokens = [0] * len(generation.requests)
        self._num_cached_tokens = [0] * len(generation.requests)
        self._builder = builder_of(generation, tokenizer.all_pieces)

    async def events(self) -> AsyncGenerator[bytes]:
        """Always ends in ``[DONE]``; an error on the way is an event of its own."""
        try:
            async with aclosing(self.chunks()) as chunks:
                async for chunk in chunks:
                    yield _event(chunk)
        except Exception as error:
            answer = as_api_error(error)
            if answer.status == 500:
                _log.exception("%s failed in mid-stream", self._generation.id)
            yield _event(answer.body())
        yield b"data: [DONE]\n\n"

    async def body(self) -> bytes:
        choices = [Delta(index) for index in range(len(self._generation.requests))]
        async with aclosing(self._deltas()) as deltas:
            async for delta in deltas:
                choices[delta.index].extend(delta)
        return msgspec.json.encode(self._builder.whole(self._best(choices), self._usage()))

    async def chunks(self) -> AsyncGenerator[Json]:
        builder = self._builder
        for index in range(len(self._generation.requests)):
            if (opening := builder.opening(index)) is not None:
                yield opening
        async with aclosing(self._deltas()) as deltas:
            async for delta in deltas:
                if self._shows(delta) and (chunk := builder.delta(delta)) is not None:
                    yield self._with_usage(chunk)
                if delta.finish_reason is not None:
                    yield self._with_usage(builder.final(delta.index, delta.finish_reason))
        if self._generation.include_usage:
            yield builder.usage(self._usage())

    def _with_usage(self, chunk: Json) -> Json:
        return chunk | {"usage": self._usage()} if self._generation.continuous_usage else chunk

    def _shows(self, delta: Delta) -> bool:
        has_ids = self._generation.returns_token_ids and delta.token_ids
        return bool(delta.text or delta.traced or has_ids)

    def _best(self, choices: list[Delta]) -> list[Delta]:
        """The ``n`` likeliest of each prompt's, by the mean over their tokens."""
        n, best_of = self._generation.n, self._generation.best_of
        if n == best_of:
            return choices
        groups = [choices[start : start + best_of] for start in range(0, len(choices), best_of)]
        best = [choice for group in groups for choice in sorted(group, key=_unlikelihood)[:n]]
        return [replace(choice, index=index) for index, choice in enumerate(best)]

    async def _deltas(self) -> AsyncGenerator[Delta]:
        requests = enumerate(self._generation.requests)
        streams = [self._choice(index).deltas(self._engine) for index, _ in requests]
        async with aclosing(merge(streams)) as deltas:
            async for delta in deltas:
                self._num_tokens[delta.index] += len(delta.token_ids)
                self._num_cached_tokens[delta.index] = delta.num_cached_tokens
                yield delta
        count = self._generation.best_of
        for start in range(0, len(streams), count):
            self._metrics.record_prompt(self._num_tokens[start : start + count])

    def _choice(self, index: int) -> Choice:
        generation, request = self._generation, self._generation.requests[index]
        return Choice(
            index,
            request,
            TokenText(generation.text, self._pieces),
            generation.text,
            RequestRecord(self._metrics, request),
            generation.timeout_s,
        )

    def _usage(self) -> Json:
        """A prompt counts once, with what the first of its choices found in the prefix cache."""
        num_prompt, num_completion = self._generation.num_prompt_tokens, sum(self._num_tokens)
        num_cached = sum(self._num_cached_tokens[:: self._generation.best_of])
        return {
            "prompt_tokens": num_prompt,
            "completion_tokens": num_completion,
            "total_tokens": num_prompt + num_completion,
            "prompt_tokens_details": {"cached_tokens": num_cached},
        }


class EventStream(Response):
    """Sends events until they end or the client goes, and then closes their generator at once.

    Starlette's own StreamingResponse leaves that to the garbage collector. After every
    ``keep_alive_s`` of silence a comment goes out, which clients skip and proxies take for life.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes], keep_alive_s: float) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._keep_alive_s = keep_alive_s
        self._is_silent = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(ClientDisconnect):
            await until_client_goes(receive, self._send(send))

    async def _send(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        async with aclosing(self._events) as events:
            await send(start)
            beat = asyncio.create_task(self._keep_alive(send))
            try:
                async for event in events:
                    self._is_silent = False
                    await send({"type": "http.response.body", "body": event, "more_body": True})
            finally:
                beat.cancel()
        await send({"type": "http.response.body", "body": b""})

    async def _keep_alive(self, send: Send) -> None:
        """One at a time: where the client does not read, ``send`` waits."""
        while self._keep_alive_s:
            self._is_silent = True
            await asyncio.sleep(self._keep_alive_s)
            if self._is_silent:
                comment = {"type": "http.response.body", "body": _KEEP_ALIVE, "more_body": True}
                await send(comment)


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


def _unlikelihood(choice: Delta) -> float:
    return -choice.sum_logprobs / max(len(choice.token_ids), 1)


def _event(data: Json) -> bytes:
    return b"data: " + msgspec.json.encode(data) + b"\n\n"
