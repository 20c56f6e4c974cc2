"""One request's outputs on their way to its reader; what a slow reader leaves is merged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace

from qoq.engine.protocol import Extras, TokenOutput


class Mailbox:
    """Holds at most one output, so that it is bounded by the request's own length."""

    def __init__(self) -> None:
        self._output: TokenOutput | None = None
        self._error: Exception | None = None
        self._arrived = asyncio.Event()

    def put(self, output: TokenOutput) -> None:
        waiting = self._output
        if waiting is None:
            self._output = output
        else:
            waiting.token_ids += output.token_ids
            waiting.finish_reason = output.finish_reason
            waiting.time_s = output.time_s
            waiting.extras = _merge(waiting.extras, output.extras)
        self._arrived.set()

    def fail(self, error: Exception) -> None:
        """Make the next ``get`` that finds no output raise ``error``."""
        self._error = error
        self._arrived.set()

    async def get(self) -> TokenOutput:
        while True:
            await self._arrived.wait()
            if self._output is not None:
                output, self._output = self._output, None
                if self._error is None:
                    self._arrived.clear()
                return output
            if self._error is not None:
                raise self._error
            self._arrived.clear()


async def outputs_in(mailbox: Mailbox) -> AsyncGenerator[TokenOutput, None]:
    """Until one has a finish reason."""
    while True:
        output = await mailbox.get()
        yield output
        if output.finish_reason is not None:
            return


def _merge(first: Extras | None, second: Extras | None) -> Extras | None:
    """Only log-probabilities come with every token."""
    if first is None or second is None:
        return first or second
    return replace(first, logprobs=(first.logprobs or []) + (second.logprobs or []))
