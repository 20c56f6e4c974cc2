"""The engine as one of several API processes sees it: through the relay of the process above."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator

import msgspec
import zmq
import zmq.asyncio

from qoq.engine.mailbox import Mailbox, outputs_in
from qoq.engine.messages import (
    Abort,
    Add,
    Hello,
    RelayedFailure,
    RelayedOutputs,
    RelayedState,
    ToApiProcess,
    ToRelay,
)
from qoq.engine.protocol import (
    EngineDeadError,
    EngineHealth,
    EngineInfo,
    EngineStats,
    GenerateRequest,
    TokenOutput,
)

SILENCE_S = 15.0
_LOADING = EngineHealth(is_ready=False, is_healthy=True, cause="loading")


class RelayClient:
    """Implements ``EngineClient``. ``run`` must run beside the requests, in their event loop."""

    def __init__(self, address: str) -> None:
        self._socket = zmq.asyncio.Context.instance().socket(zmq.DEALER)
        self._socket.set_hwm(0)
        self._socket.connect(address)
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[ToApiProcess] = msgspec.msgpack.Decoder(ToApiProcess)
        self._state = RelayedState(health=_LOADING, info=None, stats=EngineStats())
        self._heard_s = time.monotonic()
        self._mailboxes: dict[str, Mailbox] = {}

    @property
    def info(self) -> EngineInfo:
        if self._state.info is None:
            raise EngineDeadError("the engine is still loading")
        return self._state.info

    async def run(self) -> None:
        """Hand on what comes, until it is cancelled."""
        try:
            await self._send(Hello())
            while True:
                self._take(self._decoder.decode(await self._socket.recv()))
        finally:
            self._socket.close(linger=0)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[TokenOutput, None]:
        """As ``ProcessClient.generate``."""
        mailbox = self._mailboxes[request.request_id] = Mailbox()
        try:
            await self._send(Add(request))
            async for output in outputs_in(mailbox):
                yield output
        finally:
            if self._mailboxes.pop(request.request_id, None) is not None:
                await self.abort(request.request_id)

    async def abort(self, request_id: str) -> None:
        await self._send(Abort([request_id]))

    def health(self) -> EngineHealth:
        silent_s = time.monotonic() - self._heard_s
        if silent_s > SILENCE_S:
            cause = f"no word from the engine's process for {silent_s:.0f} s"
            return EngineHealth(is_ready=False, is_healthy=False, cause=cause)
        return self._state.health

    def stats(self) -> EngineStats:
        return self._state.stats

    async def _send(self, message: ToRelay) -> None:
        await self._socket.send(self._encoder.encode(message))

    def _take(self, message: ToApiProcess) -> None:
        self._heard_s = time.monotonic()
        if isinstance(message, RelayedState):
            self._state = message
        elif isinstance(message, RelayedFailure):
            if mailbox := self._mailboxes.pop(message.request_id, None):
                kind = ValueError if message.is_refusal else EngineDeadError
                mailbox.fail(kind(message.message))
        else:
            self._deliver(message)

    def _deliver(self, message: RelayedOutputs) -> None:
        for output in message.outputs:
            if mailbox := self._mailboxes.get(output.request_id):
                mailbox.put(output)
                if output.finish_reason is not None:
                    del self._mailboxes[output.request_id]
