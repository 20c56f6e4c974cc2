"""uvicorn, set up for a server that has an engine process to stop after it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI

from qoq.engine.heap import spare_collector

# How long streams may go on after the first signal to stop; the second ends them at once.
GRACE_S = 20


def listen(host: str, port: int, *, is_shared: bool = False) -> socket.socket:
    """A shared address may be listened on several times. Raises OSError, naming the address."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address, family=family, reuse_port=is_shared)
    except OSError as error:
        raise OSError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error


def listen_together(host: str, port: int, count: int) -> list[socket.socket]:
    """Sockets on one port, among which the kernel deals out connections. Raises OSError.

    From a single socket, whoever wakes first would take all that wait. Port 0 is any free one.
    """
    with listen(host, port) as alone:  # who shares an address would share it with strangers too
        port = alone.getsockname()[1]
    return [listen(host, port, is_shared=True) for _ in range(count)]


def listen_privately(path: str) -> socket.socket:
    """A Unix socket. Who may reach it, the folder says."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    return listener


class HttpServer(uvicorn.Server):
    """Stops on SIGINT and SIGTERM by returning from ``serve``.

    uvicorn's own way is to raise the signal again once it has stopped, which ends the process
    before the engine can be told.
    """

    def __init__(self, app: FastAPI, *listeners: socket.socket) -> None:
        super().__init__(
            uvicorn.Config(app, log_level="warning", ws="none", timeout_graceful_shutdown=GRACE_S)
        )
        self._listeners = list(listeners)

    async def run_until_stopped(self) -> None:
        spare_collector()
        await self.serve(sockets=self._listeners)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        signals = (signal.SIGINT, signal.SIGTERM)
        for number in signals:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in signals:
                loop.remove_signal_handler(number)


async def stop_signal() -> None:
    """Returns on SIGINT or SIGTERM."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    await stopped.wait()
