"""``/v1/responses``: create, whole, as a stream or in the background; retrieve, cancel, delete."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import msgspec
from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import Response

from qoq.server.errors import ApiError, as_api_error, unavailable
from qoq.server.protocol import ChatCompletionRequest
from qoq.server.responses.chat_body import chat_body, items_of
from qoq.server.responses.forward import Owners
from qoq.server.responses.response import ResponseBuilder
from qoq.server.responses.store import ResponseStore, Stored
from qoq.server.responses.wire import Item, ResponseRequest
from qoq.server.stream import Answer, EventStream, until_client_goes

MAX_BACKGROUND = 256

Json = dict[str, Any]
# Where chat has another name for a field.
_PARAMS = {
    "messages": "input",
    "response_format": "text.format",
    "max_completion_tokens": "max_output_tokens",
}
_log = logging.getLogger(__name__)
_ITEMS: TypeAdapter[list[Item]] = TypeAdapter(list[Item])


class Responses:
    """``plan_chat`` makes the answer to a chat request, which has not begun."""

    def __init__(
        self,
        plan_chat: Callable[[ChatCompletionRequest], Awaitable[Answer]],
        keep_alive_s: float,
        owners: Owners,
    ) -> None:
        self._plan_chat = plan_chat
        self._keep_alive_s = keep_alive_s
        self._owners = owners
        self._store = ResponseStore()

    async def create(self, body: ResponseRequest, request: Request) -> Response:
        previous, param = body.previous_response_id, "previous_response_id"
        if forwarded := await self._owners.forwarded(request, previous, param):
            return forwarded
        self._check(body)
        items = self._history(body) + items_of(body)
        try:
            answer = await self._plan_chat(chat_body(body, items))
        except ApiError as error:
            raise _renamed(error) from error
        builder = ResponseBuilder(body, self._owners.new_id())
        stored = Stored(builder.response, items)
        if body.background:
            stored.task = asyncio.create_task(self._run_in_background(builder, answer, stored))
        if body.store is not False:
            self._store.add(stored)
        if body.background:
            return _json(builder.response)
        if body.stream:
            return EventStream(self._stream(builder, answer, stored), self._keep_alive_s)
        await until_client_goes(request.receive, self._run(builder, answer, stored))
        return _json(builder.response)

    async def retrieve(self, response_id: str, request: Request) -> Response:
        if forwarded := await self._owners.forwarded(request, response_id, "response_id"):
            return forwarded
        return _json(self._store.get(response_id, "response_id").response)

    async def cancel(self, response_id: str, request: Request) -> Response:
        if forwarded := await self._owners.forwarded(request, response_id, "response_id"):
            return forwarded
        stored = self._store.get(response_id, "response_id")
        if not stored.response["background"]:
            raise ApiError(
                "Only a response that was created with background true can be cancelled.",
                param="response_id",
                code="invalid_value",
            )
        await _stop(stored)
        return _json(stored.response)

    async def delete(self, response_id: str, request: Request) -> Response:
        if forwarded := await self._owners.forwarded(request, response_id, "response_id"):
            return forwarded
        stored = self._store.get(response_id, "response_id")
        await _stop(stored)
        self._store.remove(response_id)
        return _json({"id": response_id, "object": "response", "deleted": True})

    def _check(self, body: ResponseRequest) -> None:
        if not body.background:
            return
        for param, is_wrong in (("stream", body.stream), ("store", body.store is False)):
            if is_wrong:
                raise ApiError(
                    f"Invalid '{param}': a response in the background is stored, not streamed.",
                    param=param,
                    code="invalid_value",
                )
        if self._store.num_running >= MAX_BACKGROUND:
            message = f"{MAX_BACKGROUND} responses are being made in the background already."
            raise unavailable(message, "overloaded")

    def _history(self, body: ResponseRequest) -> list[Item]:
        """What was said up to the previous response, that one included."""
        if body.previous_response_id is None:
            return []
        stored = self._store.get(body.previous_response_id, "previous_response_id")
        if stored.response["status"] not in ("completed", "incomplete"):
            raise ApiError(
                f"The previous response is {stored.response['status']}, so nothing can follow it.",
                param="previous_response_id",
                code="invalid_value",
            )
        return stored.items + _ITEMS.validate_python(stored.response["output"])

    async def _stream(
        self, builder: ResponseBuilder, answer: Answer, stored: Stored
    ) -> AsyncGenerator[bytes]:
        try:
            async with aclosing(self._events(builder, answer, stored)) as events:
                async for event in events:
                    yield _encode(event)
        except Exception as error:
            yield _encode(_fail(builder, error))

    async def _run(self, builder: ResponseBuilder, answer: Answer, stored: Stored) -> None:
        try:
            async for _ in self._events(builder, answer, stored):
                pass
        except Exception as error:
            _fail(builder, error)
            raise

    async def _run_in_background(
        self, builder: ResponseBuilder, answer: Answer, stored: Stored
    ) -> None:
        try:
            async for _ in self._events(builder, answer, stored):
                pass
        except Exception as error:
            _fail(builder, error)
        finally:
            stored.task = None

    async def _events(
        self, builder: ResponseBuilder, answer: Answer, stored: Stored
    ) -> AsyncGenerator[Json]:
        try:
            for event in builder.begin():
                yield event
            async with aclosing(answer.chunks()) as chunks:
                async for chunk in chunks:
                    for event in builder.add_chunk(chunk):
                        yield event
            for event in builder.finish():
                yield event
        except (asyncio.CancelledError, GeneratorExit):
            builder.cancel()
            raise
        finally:
            self._store.settle(stored)


async def _stop(stored: Stored) -> None:
    if stored.task is not None:
        stored.task.cancel()
        await asyncio.wait([stored.task])


def _fail(builder: ResponseBuilder, error: Exception) -> Json:
    answer = as_api_error(error)
    if answer.status == 500:
        _log.error("%s failed", builder.response["id"], exc_info=error)
    return builder.fail(str(answer))


def _renamed(error: ApiError) -> ApiError:
    """The complaint about a field of the chat request, with the name that the field has here."""
    if error.param in _PARAMS:
        here = _PARAMS[error.param]
        error.args = (str(error).replace(error.param, here),)
        error.param = here
    return error


def _encode(event: Json) -> bytes:
    data = msgspec.json.encode(event)
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), data)


def _json(content: Json) -> Response:
    return Response(msgspec.json.encode(content), media_type="application/json")
