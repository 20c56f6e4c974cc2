"""The client goes, and its engine requests end with it, whatever state the answer is in."""

import asyncio
import socket
import time
from collections.abc import AsyncGenerator

import httpx
import pytest
from starlette.types import Message

from qoq.server.stream import EventStream

PATHS = {
    "/v1/completions": {"model": "fake", "prompt": "Hi", "max_tokens": 200},
    "/v1/chat/completions": {"model": "fake", "messages": [{"role": "user", "content": "Hi"}]},
}


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("path", PATHS)
def test_client_that_gives_up(url, engine, wait_until, path: str, stream: bool, n: int) -> None:
    engine.delay_s = 0.02
    body = PATHS[path] | {"stream": stream, "n": n}
    if stream:
        with httpx.stream("POST", url + path, json=body) as reply:
            lines = reply.iter_lines()
            next(lines)
            wait_until(lambda: len(engine.running) == n)
    else:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(url + path, json=body, timeout=0.2)
    wait_until(lambda: not engine.running)
    wait_until(lambda: len(engine.aborted) == n)
    assert set(engine.aborted) == {request.request_id for request in engine.requests}
    metrics = httpx.get(f"{url}/metrics").text
    name = "vllm:request_success_total"
    assert f'{name}{{engine="0",finished_reason="abort",model_name="fake"}} {n}.0' in metrics


def test_client_that_goes_before_the_first_token(url, engine, wait_until) -> None:
    engine.delay_s = 30
    body = PATHS["/v1/completions"] | {"stream": True}
    with httpx.stream("POST", f"{url}/v1/completions", json=body):
        wait_until(lambda: len(engine.running) == 1)
    wait_until(lambda: not engine.running and len(engine.aborted) == 1)


def test_client_that_does_not_read(url, engine, wait_until) -> None:
    """The server stops at a full socket, and notices there too that the client is gone."""
    engine.info = type(engine.info)(
        **{name: getattr(engine.info, name) for name in engine.info.__slots__}
        | {"max_model_len": 10_000_000}
    )
    engine.tokens_per_output = 50_000
    host, port = url.removeprefix("http://").split(":")
    body = b'{"model": "fake", "prompt": "Hi", "max_tokens": 9000000, "stream": true}'
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: qoq\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        wait_until(lambda: len(engine.running) == 1)
        time.sleep(0.3)
        assert len(engine.running) == 1, "the answer was buffered whole"
    wait_until(lambda: not engine.running and len(engine.aborted) == 1)


async def test_events_are_closed_when_the_response_ends() -> None:
    """At once and by us: the garbage collector would come late, or never."""
    is_closed = False

    async def events() -> AsyncGenerator[bytes]:
        nonlocal is_closed
        try:
            yield b"data: 1\n\n"
        finally:
            is_closed = True

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            await asyncio.sleep(60)

    async def receive() -> Message:
        await asyncio.sleep(0.01)
        return {"type": "http.disconnect"}

    kept = events()
    await EventStream(kept, keep_alive_s=0)({"type": "http"}, receive, send)
    assert is_closed


async def test_others_are_untouched(url, engine) -> None:
    """Of 30 streams 10 leave early; the other 20 say all they have to say."""
    engine.delay_s = 0.005
    engine.say("All of it, to the end.")

    async def read(leaves: bool) -> str:
        body = PATHS["/v1/chat/completions"] | {"stream": True}
        async with client.stream("POST", f"{url}/v1/chat/completions", json=body) as reply:
            lines = []
            async for line in reply.aiter_lines():
                lines.append(line)
                if leaves and len(lines) > 6:
                    break
        return lines[-2]

    async with httpx.AsyncClient(timeout=20) as client:
        last = await asyncio.gather(*(read(leaves=i % 3 == 0) for i in range(30)))
    assert last.count("data: [DONE]") == 20
    for _ in range(200):
        if not engine.running:
            break
        await asyncio.sleep(0.01)
    assert not engine.running
    assert len(engine.aborted) == 10
