"""One choice of an answer: an engine request's tokens, made text until they end or must end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from qoq.engine.protocol import EngineClient, FinishReason, GenerateRequest, TokenOutput
from qoq.server.detokenizer import Detokenizer, StopStrings
from qoq.server.errors import ApiError, unavailable
from qoq.server.metrics import RequestRecord


@dataclass(slots=True)
class Delta:
    """What one output adds to a choice. The last, and only the last, has a finish reason."""

    index: int
    text: str
    num_tokens: int
    finish_reason: str | None = None


class Choice:
    """Turns the outputs of one engine request into deltas."""

    def __init__(
        self,
        index: int,
        request: GenerateRequest,
        detokenizer: Detokenizer,
        stops: StopStrings,
        record: RequestRecord,
    ) -> None:
        self._index = index
        self._request = request
        self._detokenizer = detokenizer
        self._stops = stops
        self._record = record

    async def deltas(self, engine: EngineClient) -> AsyncGenerator[Delta]:
        """Leaving early, for whatever reason, ends the engine request too, and at once."""
        reason, last = str(FinishReason.ABORT), None
        try:
            async with aclosing(_outputs(engine, self._request)) as outputs:
                async for output in outputs:
                    self._record.add(output)
                    delta = self._delta(output)
                    if delta.finish_reason is not None:
                        reason, last = delta.finish_reason, delta
                        break
                    yield delta
        except Exception:
            reason = "error"
            raise
        finally:
            self._record.finish(reason)
        assert last is not None, "the engine ended a request without a finish reason"
        yield last

    def _delta(self, output: TokenOutput) -> Delta:
        if output.finish_reason is FinishReason.ABORT:
            raise unavailable("The engine gave this request up.", "request_aborted")
        text, is_stopped = self._stops.add(self._detokenizer.add(self._text_ids(output)))
        reason = output.finish_reason
        if reason is not None and not is_stopped:
            rest, is_stopped = self._stops.add(self._detokenizer.finish())
            text += rest if is_stopped else rest + self._stops.finish()
        if is_stopped:
            reason = FinishReason.STOP
        return Delta(self._index, text, len(output.token_ids), reason)

    def _text_ids(self, output: TokenOutput) -> Sequence[int]:
        """Without the token that ended the request: it is no text, special or not."""
        token_ids = output.token_ids
        is_end = output.finish_reason is FinishReason.STOP and token_ids
        if is_end and token_ids[-1] in self._request.sampling.stop_token_ids:
            return token_ids[:-1]
        return token_ids


async def _outputs(engine: EngineClient, request: GenerateRequest) -> AsyncGenerator[TokenOutput]:
    """The one place where requests are aborted: leaving the engine's iterator early does it.

    Closing that here, rather than when it is collected, makes it happen now.
    """
    outputs = engine.generate(request)
    try:
        async for output in outputs:
            yield output
    except ValueError as error:  # the engine refuses what we thought possible
        raise ApiError(str(error), code="invalid_value") from error
    finally:
        await outputs.aclose()


async def merge(streams: Sequence[AsyncGenerator[Delta]]) -> AsyncGenerator[Delta]:
    """Every delta of every stream, as they come. Leaving early closes all the streams."""
    if len(streams) == 1:
        async with aclosing(streams[0]) as stream:
            async for delta in stream:
                yield delta
        return
    queue: asyncio.Queue[Delta | Exception] = asyncio.Queue(maxsize=len(streams))
    pumps = [asyncio.create_task(_pump(stream, queue)) for stream in streams]
    num_running = len(streams)
    try:
        while num_running:
            item = await queue.get()
            if isinstance(item, Exception):
                raise item
            num_running -= item.finish_reason is not None
            yield item
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def _pump(stream: AsyncGenerator[Delta], queue: asyncio.Queue[Delta | Exception]) -> None:
    try:
        async with aclosing(stream):
            async for delta in stream:
                await queue.put(delta)
    except Exception as error:
        await queue.put(error)
