"""A body past the limit is refused as soon as that is known."""

from collections.abc import AsyncIterator

import httpx
import pytest


def padded(num_bytes: int) -> bytes:
    body = b'{"prompt": "Hi"}'
    return body + b" " * (num_bytes - len(body))


async def in_parts(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 10_000):
        yield content[start : start + 10_000]


@pytest.mark.parametrize("is_announced", [True, False], ids=["content-length", "chunked"])
async def test_limit_is_exact(client: httpx.AsyncClient, is_announced: bool) -> None:
    for num_bytes, status in ((100_000, 200), (100_001, 413)):
        content = padded(num_bytes)
        answer = await client.post(
            "/tokenize",
            content=content if is_announced else in_parts(content),
            headers={"content-type": "application/json"},
        )
        assert answer.status_code == status
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "100000 bytes" in error["message"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "body_too_large")


def test_a_real_server_serves_on_after_one(url: str) -> None:
    with httpx.Client(base_url=url) as client:
        for _ in range(2):
            assert client.post("/tokenize", content=b"x" * 5_000_000).status_code == 413
            assert client.post("/tokenize", json={"prompt": "Hi"}).status_code == 200
