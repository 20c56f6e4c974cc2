"""One choice of an answer: an engine request's tokens, made text until they end or must end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from qoq.engine.protocol import (
    EngineClient,
    Extras,
    FinishReason,
    GenerateRequest,
    TokenLogprobs,
    TokenOutput,
)
from qoq.server.errors import ApiError, unavailable
from qoq.server.metrics import RequestRecord
from qoq.server.token_text import Shown, TextOptions, TokenText, TracedToken

_NO_EXTRAS = Extras()


@dataclass(slots=True)
class Delta:
    """What one output adds to a choice. The last, and only the last, has a finish reason.

    ``token_ids`` are the output's, ``traced`` those that the text is made of, the prompt's too
    where it is shown. ``sum_logprobs`` is over ``token_ids``.
    """

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    traced: list[TracedToken] = field(default_factory=list)
    finish_reason: str | None = None
    prompt_logprobs: list[TokenLogprobs] | None = None
    sum_logprobs: float = 0.0
    num_cached_tokens: int = 0

    def show(self, shown: Shown) -> None:
        self.text += shown.text
        self.token_ids += shown.token_ids
        self.traced += shown.traced

    def extend(self, later: Delta) -> None:
        self.text += later.text
        self.token_ids += later.token_ids
        self.traced += later.traced
        self.finish_reason = later.finish_reason
        self.prompt_logprobs = self.prompt_logprobs or later.prompt_logprobs
        self.sum_logprobs += later.sum_logprobs
        self.num_cached_tokens = later.num_cached_tokens


class Choice:
    """Turns the outputs of one engine request into deltas, until it ends or its time is up."""

    def __init__(
        self,
        index: int,
        request: GenerateRequest,
        text: TokenText,
        options: TextOptions,
        record: RequestRecord,
        timeout_s: float | None = None,
    ) -> None:
        self._index = index
        self._request = request
        self._text = text
        self._options = options
        self._record = record
        self._deadline_s = None if timeout_s is None else request.arrival_s + timeout_s
        self._is_first = True

    async def deltas(self, engine: EngineClient) -> AsyncGenerator[Delta]:
        """Leaving early, for whatever reason, ends the engine request too, and at once."""
        reason, last = str(FinishReason.ABORT), None
        try:
            async with aclosing(outputs_of(engine, self._request, self._deadline_s)) as outputs:
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
            raise self._given_up()
        extras = output.extras or _NO_EXTRAS
        delta = Delta(self._index, num_cached_tokens=output.num_cached_tokens)
        delta.prompt_logprobs = extras.prompt_logprobs
        if self._is_first and self._options.echo:
            prompt = self._request.prompt_token_ids
            delta.show(self._text.add_prompt(prompt, extras.prompt_logprobs or ()))
        self._is_first = False
        if self._options.has_output:
            self._add(delta, output, extras.logprobs or ())
        else:
            delta.show(self._text.finish())
            delta.finish_reason = FinishReason.LENGTH
        return delta

    def _add(self, delta: Delta, output: TokenOutput, logprobs: Sequence[TokenLogprobs]) -> None:
        ends_in_token = self._ends_in_token(output)
        shown = self._text.add(output.token_ids, logprobs, ends_in_token=ends_in_token)
        delta.show(shown)
        delta.sum_logprobs = sum(own.logprob for own in logprobs[: len(shown.token_ids)])
        if output.finish_reason is not None and not shown.is_stopped:
            shown = self._text.finish()
            delta.show(shown)
        delta.finish_reason = FinishReason.STOP if shown.is_stopped else output.finish_reason

    def _given_up(self) -> ApiError:
        if self._request.sampling.grammar is None:
            return unavailable("The engine gave this request up.", "request_aborted")
        return ApiError(
            "The output cannot follow its grammar any further, which is too complex; simplify it.",
            code="grammar_too_complex",
        )

    def _ends_in_token(self, output: TokenOutput) -> bool:
        """Whether the last token ended the request: it is no text, special or not."""
        if output.finish_reason is not FinishReason.STOP or self._options.includes_stop:
            return False
        token_ids = output.token_ids
        return bool(token_ids) and token_ids[-1] in self._request.sampling.stop_token_ids


async def outputs_of(
    engine: EngineClient, request: GenerateRequest, deadline_s: float | None = None
) -> AsyncGenerator[TokenOutput]:
    """The one place where requests are aborted: leaving the engine's iterator early does it.

    Closing that here, rather than when it is collected, makes it happen now.
    """
    outputs = engine.generate(request)
    try:
        if deadline_s is None:
            async for output in outputs:
                yield output
        else:
            async for output in _until(deadline_s, outputs):
                yield output
    except ValueError as error:  # the engine refuses what we thought possible
        raise ApiError(str(error), code="invalid_value") from error
    except TimeoutError as error:
        raise ApiError(
            "The answer took longer than the request's timeout.",
            status=408,
            param="timeout",
            code="request_timeout",
        ) from error
    finally:
        await outputs.aclose()


async def _until(
    deadline_s: float, outputs: AsyncGenerator[TokenOutput]
) -> AsyncGenerator[TokenOutput]:
    """Raises TimeoutError; only where somebody waits for an output, never while one is sent."""
    while True:
        async with asyncio.timeout_at(deadline_s):
            output = await anext(outputs, None)
        if output is None:
            return
        yield output


def merge(streams: Sequence[AsyncGenerator[Delta]]) -> AsyncGenerator[Delta]:
    """Every delta of every stream, as they come. Leaving early closes all the streams."""
    return streams[0] if len(streams) == 1 else _merge(streams)


async def _merge(streams: Sequence[AsyncGenerator[Delta]]) -> AsyncGenerator[Delta]:
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
