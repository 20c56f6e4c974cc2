"""Several processes that answer HTTP on one port, before one engine.

The process above owns the engine and answers no HTTP. An API process that ends by itself ends the
whole server: what restarts servers shall see it.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.context import SpawnProcess

from qoq.engine.relay_client import RelayClient
from qoq.server.app import build_app
from qoq.server.config import ServerConfig
from qoq.server.http_server import GRACE_S, HttpServer, listen_privately
from qoq.server.responses.forward import Owners
from qoq.server.tokenizer import Tokenizer

_METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
_PARENT_INTERVAL_S = 1.0


@dataclass(frozen=True, slots=True)
class ApiProcesses:
    """``address`` is where a relay must listen. One folder holds all metrics and Unix sockets."""

    address: str
    processes: list[SpawnProcess]

    @classmethod
    @contextlib.contextmanager
    def start(
        cls, config: ServerConfig, listeners: Sequence[socket.socket]
    ) -> Iterator[ApiProcesses]:
        """One for each of the sockets."""
        folder = tempfile.mkdtemp(prefix="qoq-api-")
        address = f"ipc://{folder}/relay"
        sockets = [f"{folder}/api-{place}" for place in range(len(listeners))]
        os.environ[_METRICS_FOLDER] = folder  # prometheus_client reads it, where it is imported
        spawn = multiprocessing.get_context("spawn")
        processes = [
            spawn.Process(target=_run, args=(config, listener, address, sockets, own), daemon=True)
            for own, listener in enumerate(listeners)
        ]
        try:
            for process in processes:
                process.start()
            yield cls(address, processes)
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.join(GRACE_S)
            shutil.rmtree(folder, ignore_errors=True)

    async def first_end(self) -> int:
        """The exit code of the process that ends first."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[int] = loop.create_future()

        def end(process: SpawnProcess) -> None:
            process.join()
            if not ended.done():
                ended.set_result(process.exitcode or 0)

        for process in self.processes:
            loop.add_reader(process.sentinel, end, process)
        try:
            return await ended
        finally:
            for process in self.processes:
                loop.remove_reader(process.sentinel)


def _run(
    config: ServerConfig, listener: socket.socket, address: str, sockets: list[str], own: int
) -> None:
    # A terminal's Ctrl-C reaches every process; the parent's SIGTERM follows it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(_serve(config, listener, address, sockets, own))


async def _serve(
    config: ServerConfig, listener: socket.socket, address: str, sockets: list[str], own: int
) -> None:
    engine = RelayClient(address)
    app = build_app(engine, Tokenizer.load(config.engine.model), config, Owners(sockets, own))
    server = HttpServer(app, listener, listen_privately(sockets[own]))
    beside = [asyncio.create_task(engine.run()), asyncio.create_task(_stop_with_parent(server))]
    try:
        await server.run_until_stopped()
    finally:
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)


async def _stop_with_parent(server: HttpServer) -> None:
    parent = os.getppid()
    while os.getppid() == parent:
        await asyncio.sleep(_PARENT_INTERVAL_S)
    server.should_exit = True
