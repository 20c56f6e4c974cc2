"""Counting what is in progress, and refusing what is too much."""

import asyncio
from dataclasses import replace

import httpx

from qoq.server.app import build_app

BODY = {"model": "fake", "prompt": "Hi", "max_tokens": 8, "stream": True}
PATH = "/v1/completions"


async def test_beyond_the_limit_is_a_429(engine, tokenizer, config) -> None:
    """Probes still answer, and the place is free again once a stream is over."""
    engine.delay_s = 0.05
    app = build_app(engine, tokenizer, replace(config, max_requests=2))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://qoq") as client:
        running = [asyncio.create_task(client.post(PATH, json=BODY)) for _ in range(2)]
        while (await client.get("/load")).json() != {"server_load": 2}:
            await asyncio.sleep(0.005)
        refused = await client.post(PATH, json=BODY)
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert int(refused.headers["retry-after"]) > 0
        assert "x-should-retry" not in refused.headers
        assert (await client.get("/health")).status_code == 200
        assert [(await task).status_code for task in running] == [200, 200]
        assert (await client.get("/load")).json() == {"server_load": 0}
        assert (await client.post(PATH, json=BODY)).status_code == 200


async def test_a_failure_gives_its_place_back(client: httpx.AsyncClient) -> None:
    assert (await client.post(PATH, json={"model": "gpt-9"})).status_code == 400
    assert (await client.get("/load")).json() == {"server_load": 0}
