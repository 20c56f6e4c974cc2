"""Two clients behind one engine: to each its own, and the engine's failures to both."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
import pytest_asyncio

from qoq.engine.config import EngineConfig
from qoq.engine.process_client import ProcessClient
from qoq.engine.protocol import EngineDeadError, GenerateRequest, SamplingParams
from qoq.engine.relay import Relay
from qoq.engine.relay_client import RelayClient

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(tiny_quantized: Path) -> AsyncIterator[ProcessClient]:
    engine = ProcessClient(EngineConfig(model=tiny_quantized, num_threads=1))
    await engine.start()
    yield engine
    await engine.close()


@pytest_asyncio.fixture(loop_scope="module")
async def clients(engine: ProcessClient, tmp_path: Path) -> AsyncIterator[list[RelayClient]]:
    address = f"ipc://{tmp_path}/relay"
    relaying = asyncio.create_task(Relay(engine, address).run())
    clients = [RelayClient(address) for _ in range(2)]
    running = [relaying, *(asyncio.create_task(client.run()) for client in clients)]
    async with asyncio.timeout(20):
        while not all(client.health().is_ready for client in clients):
            await asyncio.sleep(0.01)
    yield clients
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


def request(name: str, max_tokens: int = 30, **sampling: object) -> GenerateRequest:
    return GenerateRequest(
        request_id=name,
        prompt_token_ids=[1, 2, len(name)],
        sampling=SamplingParams(max_tokens=max_tokens, temperature=0.0, **sampling),
    )


async def tokens(client: ProcessClient | RelayClient, wanted: GenerateRequest) -> list[object]:
    """Token ids and the likelihoods of each, which travel beside them."""
    async with asyncio.timeout(20):
        outputs = [output async for output in client.generate(wanted)]
    assert [output.finish_reason is not None for output in outputs].index(True) == len(outputs) - 1
    return [
        [token for output in outputs for token in output.token_ids],
        [own for output in outputs for own in output.extras.logprobs],
    ]


async def test_each_gets_what_the_engine_says_to_it(
    engine: ProcessClient, clients: list[RelayClient]
) -> None:
    names = [f"{'x' * place}-{place}" for place in range(8)]
    asked = [request(name, logprobs=1) for name in names]
    apart = [await tokens(engine, one) for one in asked]
    together = await asyncio.gather(
        *(tokens(clients[place % 2], one) for place, one in enumerate(asked))
    )
    assert together == apart
    assert clients[1].info == engine.info


async def test_leaving_aborts(engine: ProcessClient, clients: list[RelayClient]) -> None:
    async with aclosing(clients[0].generate(request("leaver", 400))) as outputs:
        await anext(outputs)
    async with asyncio.timeout(20):
        while engine.stats().num_running or engine.stats().num_waiting:
            await tokens(clients[1], request("after", 2, logprobs=0))


async def test_a_refusal_is_the_requests_own(clients: list[RelayClient]) -> None:
    with pytest.raises(ValueError, match="max_model_len"):
        await tokens(clients[0], request("long", 10**6))
    await tokens(clients[0], request("short", 3, logprobs=0))


async def test_the_engines_death_reaches_all(
    engine: ProcessClient, clients: list[RelayClient]
) -> None:
    """And its restart: they serve on."""
    running = [
        asyncio.create_task(tokens(client, request(f"victim-{place}", 400)))
        for place, client in enumerate(clients)
    ]
    await asyncio.sleep(0.1)
    assert engine._worker is not None and engine._worker.pid is not None
    os.kill(engine._worker.pid, signal.SIGKILL)
    for task in running:
        with pytest.raises(EngineDeadError, match="signal 9"):
            await task
    async with asyncio.timeout(60):
        while not all(client.health().is_ready for client in clients):
            await asyncio.sleep(0.05)
    await tokens(clients[1], request("survivor", 3, logprobs=0))
