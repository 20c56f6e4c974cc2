"""`qoq serve` as a process of its own, ready for requests."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest


@contextmanager
def serve_process(model: Path, log: Path, *flags: str) -> Iterator[tuple[psutil.Popen, str]]:
    """The process and its URL. What it writes goes to the file ``log``."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-P", "-m", "qoq.server.main", "serve", str(model)]
    with log.open("w") as file:
        process = psutil.Popen([*command, "--port", str(port), *flags], stdout=file, stderr=file)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_ready(process, url, log)
        yield process, url
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(timeout=40)


def _wait_until_ready(process: psutil.Popen, url: str, log: Path) -> None:
    deadline_s = time.monotonic() + 120
    while time.monotonic() < deadline_s:
        assert process.poll() is None, log.read_text()
        try:
            if httpx.get(f"{url}/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    pytest.fail(log.read_text())
