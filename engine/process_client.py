"""The engine as the server sees it: another process, reached by messages, restarted when it dies.

``start`` waits until the engine is ready. From then on the client watches it: a process that ends,
falls silent or stays in one step too long is unhealthy; it is replaced, and every request that was
in it gets an error that names the cause.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from typing import Protocol

from qoq.engine.config import EngineConfig
from qoq.engine.mailbox import Mailbox, outputs_in
from qoq.engine.messages import (
    Abort,
    Add,
    Failed,
    FromEngine,
    Heartbeat,
    Ready,
    Rejected,
    StepOutputs,
)
from qoq.engine.protocol import (
    EngineDeadError,
    EngineHealth,
    EngineInfo,
    EngineStats,
    GenerateRequest,
    TokenOutput,
)
from qoq.engine.worker import Worker

logger = logging.getLogger(__name__)

WATCH_INTERVAL_S = 1.0
SILENCE_S = 15.0
# Give up after this many failures within the window: something is wrong that a restart won't mend.
MAX_FAILURES = 3
FAILURE_WINDOW_S = 300.0


class Sink(Protocol):
    """Where one request's outputs go: a mailbox, or on to another process."""

    def put(self, output: TokenOutput) -> None: ...

    def fail(self, error: Exception) -> None: ...


class EngineStartError(RuntimeError):
    """The engine could not come up; the message is one sentence for the user."""


class ProcessClient:
    """Implements ``EngineClient``. Use from one event loop: ``start``, then requests, ``close``."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._info: EngineInfo | None = None
        self._stats = EngineStats()
        self._sinks: dict[str, Sink] = {}
        self._worker: Worker | None = None
        self._cause: str | None = "loading"
        self._failures: list[float] = []
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def info(self) -> EngineInfo:
        if self._info is None:
            raise EngineDeadError("the engine is still loading")
        return self._info

    async def start(self) -> None:
        """Raises EngineStartError where the engine does not come up."""
        await self._launch()
        self._tasks.append(asyncio.create_task(self._supervise()))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._fail_all("the server is shutting down")
        if self._worker is not None:
            await self._worker.stop()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[TokenOutput, None]:
        """Outputs until one has a finish reason; leaving early aborts the request.

        Raises:
            EngineDeadError: the engine is not up, or fails while the request waits or runs.
            ValueError: the engine refuses the request, or its id is in use.
        """
        mailbox = Mailbox()
        try:
            await self.submit(request, mailbox)
            async for output in outputs_in(mailbox):
                yield output
        finally:
            if self._sinks.get(request.request_id) is mailbox:
                await self.forget(request.request_id)

    async def submit(self, request: GenerateRequest, sink: Sink) -> None:
        """Start a request whose outputs go to ``sink``. Raises as ``generate`` does."""
        if request.request_id in self._sinks:
            raise ValueError(f"request_id {request.request_id!r} is in use; choose another")
        if self._cause is not None or self._worker is None:
            raise EngineDeadError(f"the engine is not available: {self._cause}")
        self._sinks[request.request_id] = sink
        await self._worker.send(Add(request))

    async def forget(self, request_id: str) -> None:
        """Abort a request, nothing more of which goes to its sink."""
        if self._sinks.pop(request_id, None) is not None:
            await self.abort(request_id)

    async def abort(self, request_id: str) -> None:
        """End the request in the engine; nothing happens where there is none of that id."""
        if self._worker is not None:
            await self._worker.send(Abort([request_id]))

    def health(self) -> EngineHealth:
        is_loading = self._info is None
        is_up = self._cause is None
        return EngineHealth(is_ready=is_up, is_healthy=is_up or is_loading, cause=self._cause)

    def stats(self) -> EngineStats:
        return self._stats

    @property
    def pid(self) -> int | None:
        """Of the engine process; None before ``start``."""
        return None if self._worker is None else self._worker.pid

    def resident_bytes(self) -> int:
        """Resident memory of the engine process."""
        assert self._worker is not None
        return self._worker.resident_bytes()

    async def _launch(self) -> None:
        """Start a worker and wait for its first word."""
        worker = self._worker = Worker(self._config)
        worker.start()
        while True:
            message = await worker.receive(timeout_s=WATCH_INTERVAL_S)
            if isinstance(message, Ready):
                self._info, self._cause = message.info, None
                return
            if isinstance(message, Failed):
                raise EngineStartError(message.cause)
            if message is None and not worker.is_alive:
                raise EngineStartError(f"the engine process ended at start-up ({worker.exit})")

    async def _supervise(self) -> None:
        while True:
            self._cause = await self._serve()
            logger.error("engine failed: %s", self._cause)
            self._fail_all(self._cause)
            self._stats = EngineStats()
            assert self._worker is not None
            await self._worker.stop(timeout_s=0)
            await self._restart()

    async def _restart(self) -> None:
        """Launch again and again; after too many failures stay down, and say so in the health."""
        while True:
            now = time.monotonic()
            self._failures = [t for t in self._failures if now - t < FAILURE_WINDOW_S] + [now]
            if len(self._failures) > MAX_FAILURES:
                self._cause = f"gave up after {MAX_FAILURES} restarts; last: {self._cause}"
                logger.critical("engine %s", self._cause)
                await asyncio.Event().wait()
            try:
                await self._launch()
                return
            except EngineStartError as error:
                self._cause = str(error)

    async def _serve(self) -> str:
        """Hand on messages until the engine fails; returns the cause."""
        worker = self._worker
        assert worker is not None
        heard_s, busy_since_s = time.monotonic(), None
        while True:
            message = await worker.receive(timeout_s=WATCH_INTERVAL_S)
            now = time.monotonic()
            if message is not None:
                heard_s = now
            if isinstance(message, Heartbeat):
                busy_since_s = message.busy_since_s
            elif isinstance(message, Failed):
                return message.cause
            elif message is not None:
                busy_since_s = None
                self._deliver(message)
            elif not worker.is_alive:
                return f"the engine process ended ({worker.exit})"
            if now - heard_s > SILENCE_S:
                return f"no sign of life from the engine for {SILENCE_S:.0f} s"
            if busy_since_s is not None and now - busy_since_s > self._config.stall_timeout_s:
                return f"a step has been running for {now - busy_since_s:.0f} s"

    def _deliver(self, message: FromEngine) -> None:
        if isinstance(message, Rejected):
            if sink := self._sinks.pop(message.request_id, None):
                sink.fail(ValueError(message.message))
        elif isinstance(message, StepOutputs):
            self._stats = message.stats
            for output in token_outputs(message):
                if sink := self._sinks.get(output.request_id):
                    sink.put(output)
                    if output.finish_reason is not None:
                        del self._sinks[output.request_id]

    def _fail_all(self, cause: str) -> None:
        sinks, self._sinks = self._sinks, {}
        for sink in sinks.values():
            sink.fail(EngineDeadError(f"the engine failed: {cause}"))


def token_outputs(message: StepOutputs) -> list[TokenOutput]:
    return [
        TokenOutput(
            request_id=request_id,
            token_ids=[token] if token >= 0 else [],
            finish_reason=finish_reason,
            time_s=message.time_s,
            scheduled_s=scheduled_s,
            num_cached_tokens=num_cached_tokens,
            extras=message.extras.get(place),
        )
        for place, request_id, token, finish_reason, scheduled_s, num_cached_tokens in zip(
            range(len(message.request_ids)),
            message.request_ids,
            message.token_ids,
            message.finish_reasons,
            message.scheduled_s,
            message.num_cached_tokens,
            strict=True,
        )
    ]
