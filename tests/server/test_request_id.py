"""`x-request-id` is on every response, whoever made it."""

import httpx
import pytest

HI = {"model": "fake", "prompt": "Hi"}


@pytest.mark.parametrize("given", ["abc-123", "x" * 128, "~!{}"])
async def test_sane_ids_come_back(client: httpx.AsyncClient, given: str) -> None:
    answer = await client.get("/version", headers={"x-request-id": given})
    assert answer.headers.get_list("x-request-id") == [given]


@pytest.mark.parametrize("given", [b"", b"x" * 129, b"a b", "ä".encode(), b"a\tb", None])
async def test_others_get_a_new_one(client: httpx.AsyncClient, given: bytes | None) -> None:
    headers = {} if given is None else {"x-request-id": given}
    first, second = [(await client.get("/version", headers=headers)) for _ in range(2)]
    ids = {answer.headers["x-request-id"] for answer in (first, second)}
    assert len(ids) == 2
    assert all(one.startswith("req_") and len(one) == 36 for one in ids)


async def test_errors_and_streams_have_one(client: httpx.AsyncClient, engine) -> None:
    headers = {"x-request-id": "mine"}
    answers = [
        await client.get("/nowhere", headers=headers),
        await client.get("/v1/completions", headers=headers),
        await client.post("/v1/completions", json={}, headers=headers),
        await client.post("/v1/completions", content=b"x" * 200_000, headers=headers),
        await client.post("/v1/completions", json=HI | {"stream": True}, headers=headers),
    ]
    assert [answer.status_code for answer in answers] == [404, 405, 400, 413, 200]
    assert {answer.headers["x-request-id"] for answer in answers} == {"mine"}


async def test_our_own_bugs_have_one(
    client: httpx.AsyncClient, engine, monkeypatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A 500 is answered outside our middleware, and tells nothing but where to look."""
    monkeypatch.setattr(type(engine), "_steps", lambda *_: iter([(["secret"], None)]))
    answer = await client.post("/v1/completions", json=HI, headers={"x-request-id": "mine"})
    assert answer.status_code == 500
    assert answer.headers.get_list("x-request-id") == ["mine"]
    error = answer.json()["error"]
    assert (error["type"], error["code"], error["param"]) == (
        "server_error",
        "internal_error",
        None,
    )
    assert "secret" not in answer.text
    [line] = [line for line in caplog.messages if line.startswith("mine: ")]
    assert "POST /v1/completions failed" in line
