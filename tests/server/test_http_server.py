"""Sockets that API processes listen on: one port for several, and no stranger among them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from qoq.server.http_server import listen, listen_together

NUM_CONNECTIONS = 64


@pytest.fixture
def pair() -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        yield [stack.enter_context(one) for one in listen_together("127.0.0.1", 0, 2)]


def test_connections_are_dealt_out(pair: list[socket.socket]) -> None:
    """Like coins, so that fewer than 8 of 64 for one is 6 sigma away."""
    address = pair[0].getsockname()
    assert pair[1].getsockname() == address
    with ExitStack() as stack:
        for _ in range(NUM_CONNECTIONS):
            stack.enter_context(socket.create_connection(address))
        counts = [_accept_all(one) for one in pair]
    assert sum(counts) == NUM_CONNECTIONS and min(counts) >= 8


def test_a_port_that_others_share_is_in_use(pair: list[socket.socket]) -> None:
    port = pair[0].getsockname()[1]
    for again in (lambda: listen("127.0.0.1", port), lambda: listen_together("127.0.0.1", port, 2)):
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}"):
            again()


def _accept_all(listener: socket.socket) -> int:
    listener.setblocking(False)
    for count in range(NUM_CONNECTIONS + 1):
        try:
            listener.accept()[0].close()
        except BlockingIOError:
            return count
    raise AssertionError("more connections than were made")
