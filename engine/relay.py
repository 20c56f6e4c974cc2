"""One engine behind several API processes: takes their requests, hands every output to its own.

The processes reach the engine through here and not by themselves, so that it is watched, restarted
and stopped in one place. What a step brings for one process goes to it as one message.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import msgspec
import zmq
import zmq.asyncio

from qoq.engine.messages import (
    Abort,
    Add,
    RelayedFailure,
    RelayedOutputs,
    RelayedState,
    ToApiProcess,
    ToRelay,
)
from qoq.engine.process_client import ProcessClient
from qoq.engine.protocol import EngineDeadError, TokenOutput

STATE_INTERVAL_S = 0.5


class Relay:
    """Serves the API processes that connect to ``address``, an address of ZeroMQ."""

    def __init__(self, engine: ProcessClient, address: str) -> None:
        self._engine = engine
        self._socket = zmq.asyncio.Context.instance().socket(zmq.ROUTER)
        self._socket.set_hwm(0)
        self._socket.bind(address)
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[ToRelay] = msgspec.msgpack.Decoder(ToRelay)
        self._peers: set[bytes] = set()
        self._outputs: dict[bytes, list[TokenOutput]] = {}

    async def run(self) -> None:
        """Until it is cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._tell_state())
                tasks.create_task(self._receive())
        finally:
            self._socket.close(linger=0)

    def put(self, peer: bytes, output: TokenOutput) -> None:
        """Sent once all that came at the same time is here."""
        if not self._outputs:
            asyncio.get_running_loop().call_soon(self._flush)
        self._outputs.setdefault(peer, []).append(output)

    def send(self, peer: bytes, message: ToApiProcess) -> None:
        """Nobody waits: without a high-water mark, sending only queues."""
        self._socket.send_multipart([peer, self._encoder.encode(message)])

    def _flush(self) -> None:
        waiting, self._outputs = self._outputs, {}
        for peer, outputs in waiting.items():
            self.send(peer, RelayedOutputs(outputs))

    async def _tell_state(self) -> None:
        while True:
            for peer in self._peers:
                self.send(peer, self.state())
            await asyncio.sleep(STATE_INTERVAL_S)

    def state(self) -> RelayedState:
        health = self._engine.health()
        info = self._engine.info if health.is_ready else None
        return RelayedState(health=health, info=info, stats=self._engine.stats())

    async def _receive(self) -> None:
        while True:
            peer, data = await self._socket.recv_multipart()
            message = self._decoder.decode(data)
            if isinstance(message, Add):
                await self._add(peer, message)
            elif isinstance(message, Abort):
                for request_id in message.request_ids:
                    await self._engine.forget(request_id)
            else:
                self._peers.add(peer)
                self.send(peer, self.state())

    async def _add(self, peer: bytes, message: Add) -> None:
        request_id = message.request.request_id
        try:
            await self._engine.submit(message.request, _Sink(self, peer, request_id))
        except (EngineDeadError, ValueError) as error:
            self.send(peer, _failure(request_id, error))


@dataclass(frozen=True, slots=True)
class _Sink:
    """Where the engine's client leaves one request's outputs."""

    relay: Relay
    peer: bytes
    request_id: str

    def put(self, output: TokenOutput) -> None:
        self.relay.put(self.peer, output)

    def fail(self, error: Exception) -> None:
        """The engine's health is news then, too."""
        self.relay.send(self.peer, _failure(self.request_id, error))
        self.relay.send(self.peer, self.relay.state())


def _failure(request_id: str, error: Exception) -> RelayedFailure:
    return RelayedFailure(request_id, str(error), is_refusal=isinstance(error, ValueError))
