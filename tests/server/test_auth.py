"""API keys, request ids and the size of a body: what stands before every route."""

from dataclasses import replace

import httpx
import pytest

HI = {"model": "fake", "prompt": "Hi"}
GUARDED = [
    "/v1/models",
    "/v1/nowhere",
    "/metrics",
    "/version",
    "/openapi.json",
    "/health/",
    "//ready",
]


@pytest.fixture
def config(config):
    return replace(config, api_keys=("first-key", "zweiter-schlüssel"))


@pytest.mark.parametrize("path", GUARDED)
@pytest.mark.parametrize(
    "given",
    [None, "", "Bearer", "Bearer wrong", "Bearer first-key2", "Basic first-key", "first-key"],
)
async def test_without_a_key(client: httpx.AsyncClient, path: str, given: str | None) -> None:
    headers = {} if given is None else {"authorization": given}
    answer = await client.get(path, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["x-request-id"]
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["code"], error["type"]) == ("invalid_api_key", "invalid_request_error")
    assert "first-key" not in answer.text


@pytest.mark.parametrize("key", ["first-key", "zweiter-schlüssel"])
@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
async def test_with_any_of_the_keys(client: httpx.AsyncClient, scheme: str, key: str) -> None:
    headers = {"authorization": f"{scheme} {key}".encode()}
    assert (await client.get("/v1/models", headers=headers)).status_code == 200
    assert (await client.post("/v1/completions", json=HI, headers=headers)).status_code == 200


async def test_nobody_generates_without_a_key(client: httpx.AsyncClient, engine) -> None:
    assert (await client.post("/v1/completions", json=HI)).status_code == 401
    assert engine.requests == []


async def test_probes_need_no_key(client: httpx.AsyncClient) -> None:
    assert (await client.get("/health")).status_code == 200
    assert (await client.get("/ready")).status_code == 200
