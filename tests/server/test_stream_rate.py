"""How many tokens a second one API process streams, and what a token costs it.

Run alone, with output: ``pytest -m slow -s tests/server/test_stream_rate.py``.
"""

import json
import subprocess
import sys
import time

import pytest

from qoq.engine.heap import spare_collector
from qoq.server.app import build_app

from .conftest import served
from .stepping_engine import SteppingEngine

NUM_CLIENTS = 256
NUM_TOKENS = 300
GOAL = 15_000  # tokens/s of one process to 256 clients

# Raw sockets in a process of its own: a client library would be what is measured.
CLIENT = """
import asyncio, json, sys

async def read(port, request):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    events = 0
    while data := await reader.read(65536):
        events += data.count(b"data: {")
    writer.close()
    return events

async def main():
    port, count, body = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3].encode()
    head = "POST /v1/completions HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\nContent-Length: "
    request = f"{head}{len(body)}\\r\\n\\r\\n".encode() + body
    print(sum(await asyncio.gather(*(read(port, request) for _ in range(count)))))

asyncio.run(main())
"""


def stream(url: str) -> tuple[float, float, float]:
    """Tokens a second, CPU microseconds of this process and events, both a token."""
    body = {"model": "fake", "prompt": "Hi", "max_tokens": NUM_TOKENS, "stream": True}
    port = url.rsplit(":", 1)[1]
    command = [sys.executable, "-c", CLIENT, port, str(NUM_CLIENTS), json.dumps(body)]
    cpu_s, started_s = time.process_time(), time.monotonic()
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    cpu_s, wall_s = time.process_time() - cpu_s, time.monotonic() - started_s
    num_tokens = NUM_CLIENTS * NUM_TOKENS
    return num_tokens / wall_s, 1e6 * cpu_s / num_tokens, int(result.stdout) / num_tokens


@pytest.mark.slow
def test_an_event_for_every_token_costs_little_enough(tokenizer, config, capsys) -> None:
    """By CPU time, so that others on the machine do not count: 66 microseconds are the goal. The
    least of three runs, since caches and a core's two threads are shared all the same.
    """
    spare_collector()  # as a server does; behind other tests there is much to collect
    with served(build_app(SteppingEngine(), tokenizer, config)) as url:
        rate, cpu_us, events = min((stream(url) for _ in range(3)), key=lambda run: run[1])
    with capsys.disabled():
        print(f"\none event a token: {cpu_us:.1f} us of CPU a token, {rate:.0f} tokens/s")
    assert events > 1
    assert cpu_us < 1e6 / GOAL


@pytest.mark.slow
def test_a_server_that_is_behind_merges_tokens_and_keeps_up(tokenizer, config, capsys) -> None:
    """Asked for more than it can send singly, it would fall ever further behind without merging."""
    with served(build_app(SteppingEngine(4 * GOAL), tokenizer, config)) as url:
        rate, cpu_us, events = stream(url)
    with capsys.disabled():
        print(f"\n{events:.2f} events a token: {cpu_us:.1f} us of CPU a token, {rate:.0f} tokens/s")
    assert rate > GOAL
