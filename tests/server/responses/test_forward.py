"""``/v1/responses`` by two API processes: either answers for what one of them keeps."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from qoq.server.app import build_app
from qoq.server.config import ServerConfig
from qoq.server.http_server import listen_privately
from qoq.server.responses.forward import Owners
from qoq.server.tokenizer import Tokenizer

from ..conftest import FakeEngine

BODY = {"model": "fake", "input": "Hi", "max_output_tokens": 8}
Workers = list[tuple[httpx.Client, FakeEngine]]


@contextmanager
def served(apps: dict[str, FastAPI]) -> Iterator[None]:
    """Each at its socket's path."""
    settings = {"log_level": "warning", "ws": "none", "loop": "asyncio"}
    servers = [uvicorn.Server(uvicorn.Config(app, **settings)) for app in apps.values()]
    threads = [
        threading.Thread(target=server.run, args=([listen_privately(path)],), daemon=True)
        for server, path in zip(servers, apps, strict=True)
    ]
    for thread in threads:
        thread.start()
    while not all(server.started for server in servers):
        time.sleep(0.005)
        assert all(thread.is_alive() for thread in threads), "a server did not start"
    yield
    for server in servers:
        server.should_exit = True
    for thread in threads:
        thread.join(timeout=10)
        assert not thread.is_alive(), "a server did not stop"


@pytest.fixture
def workers(tokenizer: Tokenizer, config: ServerConfig, tmp_path: Path) -> Iterator[Workers]:
    """The third is dead."""
    sockets = [f"{tmp_path}/{place}" for place in range(3)]
    config = replace(config, api_keys=("key",), keep_alive_s=0.05)
    engines = [FakeEngine(), FakeEngine()]
    apps = {
        sockets[own]: build_app(engine, tokenizer, config, Owners(sockets, own))
        for own, engine in enumerate(engines)
    }
    with served(apps), ExitStack() as stack:
        clients = [stack.enter_context(_client(path)) for path in apps]
        yield list(zip(clients, engines, strict=True))


def _client(path: str) -> httpx.Client:
    headers = {"authorization": "Bearer key"}
    transport = httpx.HTTPTransport(uds=path, verify=False)
    return httpx.Client(transport=transport, base_url="http://qoq", headers=headers)


def create(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    answer = client.post("/v1/responses", json=BODY | fields)
    assert answer.status_code == 200, answer.text
    response: dict[str, Any] = answer.json()
    return response


def test_either_worker_answers_for_a_response(workers: Workers) -> None:
    for (owner, engine), (other, idle) in (workers, workers[::-1]):
        num_engine, num_idle = len(engine.requests), len(idle.requests)
        first = create(owner)
        path = f"/v1/responses/{first['id']}"
        assert [client.get(path).json() for client in (owner, other)] == [first, first]
        for client in (owner, other):
            second = create(client, previous_response_id=first["id"], input="And then? Grüezi")
            assert other.get(f"/v1/responses/{second['id']}").json() == second
            prompt = bytes(t for t in engine.requests[-1].prompt_token_ids if t < 256).decode()
            assert "Hi" in prompt and prompt.count("Hello th") == 1 and "Grüezi" in prompt
        assert (len(engine.requests), len(idle.requests)) == (num_engine + 3, num_idle)
        deleted = {"id": first["id"], "object": "response", "deleted": True}
        assert other.delete(path).json() == deleted
        assert [client.get(path).status_code for client in (owner, other)] == [404, 404]


def test_headers_are_those_of_one_server(workers: Workers) -> None:
    (owner, _), (other, _) = workers
    path = f"/v1/responses/{create(owner)['id']}"
    answer = other.get(path, headers={"x-request-id": "mine"})
    names = [name for name, _ in answer.headers.multi_items()]
    assert sorted(names) == sorted(owner.get(path).headers) and len(names) == len(set(names))
    assert answer.headers["x-request-id"] == "mine"
    wrong = {"authorization": "Bearer wrong"}
    assert [client.get(path, headers=wrong).status_code for client in (owner, other)] == [401, 401]


def test_a_stream_is_passed_on_as_it_comes(workers: Workers) -> None:
    """Events and keep-alives, each when it is made."""
    (owner, engine), (other, _) = workers
    first = create(owner)
    engine.delay_s = 0.2
    body = BODY | {"stream": True, "previous_response_id": first["id"], "max_output_tokens": 3}
    with other.stream("POST", "/v1/responses", json=body) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        parts = [(time.monotonic(), part) for part in answer.iter_raw()]
    text = b"".join(part for _, part in parts).decode()
    assert text.count("event: response.output_text.delta") == 3
    assert text.count(": keep-alive\n\n") >= 3
    assert text.split("\n\n")[-2].startswith("event: response.incomplete\n")
    assert parts[-1][0] - parts[0][0] > 2 * engine.delay_s
    assert other.get(f"/v1/responses/{_id_in(text)}").json()["status"] == "incomplete"


def test_a_response_in_the_background_is_cancelled_from_the_other(
    workers: Workers, wait_until: Callable[..., None]
) -> None:
    (owner, engine), (other, _) = workers
    engine.delay_s = 0.05
    path = f"/v1/responses/{create(owner, background=True, max_output_tokens=200)['id']}"
    wait_until(lambda: len(engine.running) == 1)
    assert other.get(path).json()["status"] == "in_progress"
    assert other.post(f"{path}/cancel").json()["status"] == "cancelled"
    wait_until(lambda: not engine.running and len(engine.aborted) == 1)
    assert owner.get(path).json()["status"] == "cancelled"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_client_that_leaves_aborts_at_the_owner(
    workers: Workers, wait_until: Callable[..., None], stream: bool
) -> None:
    (owner, engine), (other, _) = workers
    first = create(owner)
    engine.delay_s = 0.02
    body = BODY | {"stream": stream, "previous_response_id": first["id"], "max_output_tokens": 150}
    if stream:
        with other.stream("POST", "/v1/responses", json=body) as answer:
            parts = answer.iter_raw()
            next(parts)
            wait_until(lambda: len(engine.running) == 1)
    else:
        with pytest.raises(httpx.ReadTimeout):
            other.post("/v1/responses", json=body, timeout=0.2)
    wait_until(lambda: not engine.running and len(engine.aborted) == 1, timeout_s=2)


def _id_in(text: str) -> str:
    event = json.loads(text.partition("data: ")[2].partition("\n")[0])
    return str(event["response"]["id"])


OWNERLESS = {
    "here or there": f"resp_0000{'0' * 32}",
    "there or here": f"resp_0001{'0' * 32}",
    "dead": f"resp_0002{'0' * 32}",
    "out of range": f"resp_ffff{'0' * 32}",
    "malformed": "resp_0001",
    "of another kind": f"chatcmpl-0001{'0' * 32}",
}


def test_what_nobody_keeps_is_not_found(workers: Workers) -> None:
    for response_id, (client, _) in product(OWNERLESS.values(), workers):
        path = f"/v1/responses/{response_id}"
        for answer in (client.get(path), client.delete(path), client.post(f"{path}/cancel")):
            assert_not_found(answer, response_id, "response_id")
        body = BODY | {"previous_response_id": response_id}
        answer = client.post("/v1/responses", json=body)
        assert_not_found(answer, response_id, "previous_response_id")


def assert_not_found(answer: httpx.Response, response_id: str, param: str) -> None:
    assert answer.status_code == 404 and answer.headers["x-should-retry"] == "false"
    assert answer.json()["error"] == {
        "message": f"There is no response '{response_id}' here, or none any more.",
        "type": "invalid_request_error",
        "param": param,
        "code": "response_not_found",
    }
