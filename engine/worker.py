"""One engine process and the two sockets to it, as long as it lives."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import shutil
import tempfile
from pathlib import Path

import msgspec
import zmq
import zmq.asyncio

from qoq.engine.config import EngineConfig
from qoq.engine.heap import keep_freed_memory
from qoq.engine.messages import FromEngine, Shutdown, ToEngine

STOP_TIMEOUT_S = 5.0
SEND_TIMEOUT_MS = 1000


def _run(config: EngineConfig, inbox_address: str, outbox_address: str) -> None:
    # Before torch loads OpenMP. Its threads shall wait for each other awake for a fraction of a
    # millisecond, which bridges the gaps in a step, and then sleep: by default they keep the CPU
    # for milliseconds from whom they wait for, the server's process among them.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    keep_freed_memory()
    from qoq.engine.process import run_process

    run_process(config, inbox_address, outbox_address)


class Worker:
    """Sockets are Unix sockets in a folder that only this user can enter."""

    def __init__(self, config: EngineConfig) -> None:
        self._folder = tempfile.mkdtemp(prefix="qoq-")
        inbox, outbox = (f"ipc://{self._folder}/{name}" for name in ("inbox", "outbox"))
        context = zmq.asyncio.Context.instance()
        self._inbox = context.socket(zmq.PUSH)
        self._outbox = context.socket(zmq.PULL)
        for socket in (self._inbox, self._outbox):
            socket.set_hwm(0)
        self._inbox.sndtimeo = SEND_TIMEOUT_MS  # for the moment in which an engine connects
        self._inbox.bind(inbox)
        self._outbox.bind(outbox)
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[FromEngine] = msgspec.msgpack.Decoder(FromEngine)
        spawn = multiprocessing.get_context("spawn")
        self._process = spawn.Process(target=_run, args=(config, inbox, outbox), daemon=True)

    @property
    def is_alive(self) -> bool:
        return self._process.is_alive()

    @property
    def exit(self) -> str:
        code = self._process.exitcode
        return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def resident_bytes(self) -> int:
        pages = Path(f"/proc/{self.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def start(self) -> None:
        self._process.start()

    async def send(self, message: ToEngine) -> None:
        """A message to an engine that is not there is lost, as the engine is."""
        with contextlib.suppress(zmq.ZMQError):
            await self._inbox.send(self._encoder.encode(message))

    async def receive(self, timeout_s: float) -> FromEngine | None:
        """The next message, or None where none came in time."""
        if not await self._outbox.poll(int(timeout_s * 1000)):
            return None
        return self._decoder.decode(await self._outbox.recv())

    async def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Ask the process to end, make it end where it does not, and close the sockets."""
        if timeout_s and self.is_alive:
            await self.send(Shutdown())
            await asyncio.to_thread(self._process.join, timeout_s)
        if self.is_alive:
            self._process.kill()
            await asyncio.to_thread(self._process.join)
        self._inbox.close(linger=0)
        self._outbox.close(linger=0)
        shutil.rmtree(self._folder, ignore_errors=True)
