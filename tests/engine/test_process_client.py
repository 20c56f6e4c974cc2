"""A real engine process on a tiny model: what its client promises, in good days and in bad ones."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from itertools import count
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from qoq.engine.config import EngineConfig
from qoq.engine.process import NICENESS
from qoq.engine.process_client import EngineStartError, ProcessClient
from qoq.engine.protocol import (
    EngineDeadError,
    EngineStats,
    FinishReason,
    GenerateRequest,
    SamplingParams,
    TokenOutput,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

request_ids = (f"request-{index}" for index in count())


def request(max_tokens: int, prompt: list[int] | None = None, **fields: object) -> GenerateRequest:
    return GenerateRequest(
        request_id=next(request_ids),
        prompt_token_ids=prompt or [1, 2, 3],
        sampling=SamplingParams(max_tokens=max_tokens, temperature=0.0),
        arrival_s=time.monotonic(),
        **fields,
    )


async def collect(client: ProcessClient, wanted: GenerateRequest) -> list[TokenOutput]:
    """All outputs. A request that nobody answers is an error and not a test that never ends."""
    async with asyncio.timeout(20):
        return [output async for output in client.generate(wanted)]


async def eventually(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "the condition never came true"
        await asyncio.sleep(0.02)


def engine_processes() -> list[psutil.Process]:
    return [
        child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())
    ]


@asynccontextmanager
async def running_client(model: Path, **settings: object) -> AsyncIterator[ProcessClient]:
    config = EngineConfig(model=model, num_threads=1, kv_cache_bytes=2**22, **settings)
    client = ProcessClient(config)
    await client.start()
    try:
        yield client
    finally:
        await client.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(tiny_quantized: Path) -> AsyncIterator[ProcessClient]:
    async with running_client(tiny_quantized) as client:
        yield client


async def test_is_ready_with_the_facts_of_the_model(client: ProcessClient):
    assert client.health().is_ready and client.health().is_healthy
    assert client.health().cause is None
    info = client.info
    assert (info.vocab_size, info.max_model_len, info.block_size) == (96, 512, 64)
    assert (info.precision, info.device, info.model) == ("w4a8kv4", "cpu", "w4a8kv4")
    assert client.resident_bytes() > 2**24


async def test_generates_the_tokens_asked_for(client: ProcessClient):
    started_s = time.monotonic()
    outputs = await collect(client, request(5))
    assert sum(len(output.token_ids) for output in outputs) == 5
    assert [output.finish_reason for output in outputs[:-1]] == [None] * (len(outputs) - 1)
    assert outputs[-1].finish_reason is FinishReason.LENGTH
    for output in outputs:
        assert started_s <= output.scheduled_s <= output.time_s <= time.monotonic()


async def test_stops_at_a_stop_token(client: ProcessClient):
    (first, *_) = await collect(client, request(1))
    sampling = SamplingParams(max_tokens=9, temperature=0.0, stop_token_ids=(first.token_ids[0],))
    stopped = GenerateRequest(request_id="stopped", prompt_token_ids=[1, 2, 3], sampling=sampling)
    outputs = await collect(client, stopped)
    assert [output.finish_reason for output in outputs] == [FinishReason.STOP]


async def test_many_requests_at_once_all_finish_with_their_own_tokens(client: ProcessClient):
    prompts = [[index % 96] * (1 + index) for index in range(40)]
    together = await asyncio.gather(*(collect(client, request(6, prompt)) for prompt in prompts))
    alone = [await collect(client, request(6, prompt)) for prompt in prompts[::13]]
    tokens = [[t for output in outputs for t in output.token_ids] for outputs in together]
    assert [len(ids) for ids in tokens] == [6] * 40
    assert tokens[::13] == [
        [t for output in outputs for t in output.token_ids] for outputs in alone
    ]


async def test_a_slow_reader_gets_several_steps_at_once(client: ProcessClient):
    async with aclosing(client.generate(request(30))) as outputs:
        first = await anext(outputs)
        await asyncio.sleep(1.0)
        second = await anext(outputs)
    assert len(first.token_ids) + len(second.token_ids) == 30
    assert second.finish_reason is FinishReason.LENGTH


async def test_leaving_the_generator_aborts_the_request(client: ProcessClient):
    """Otherwise a client that went away would hold its blocks to the last of 500 tokens."""
    wanted = request(500)
    async with aclosing(client.generate(wanted)) as outputs:
        await anext(outputs)
        assert client.stats().num_running == 1
        assert client.stats().kv_cache_usage > 0
    await collect(client, request(1))  # long before the 500 tokens would be done
    assert client.stats().num_running == 0
    assert client.stats().kv_cache_usage == 0.0


async def test_abort_by_id_ends_the_stream(client: ProcessClient):
    wanted, outputs = request(500), []
    async for output in client.generate(wanted):
        outputs.append(output)
        await client.abort(wanted.request_id)
    assert outputs[-1].finish_reason is FinishReason.ABORT
    await client.abort("unknown")


async def test_a_request_that_can_never_run_is_refused(client: ProcessClient):
    with pytest.raises(ValueError, match=r"exceed max_model_len \(512\)"):
        await collect(client, request(600))
    assert (await collect(client, request(2)))[-1].finish_reason is FinishReason.LENGTH


async def test_a_second_request_of_the_same_id_leaves_the_first_alone(client: ProcessClient):
    """It once took over the first one's outputs, which then waited for ever."""
    first = request(200)
    async with aclosing(client.generate(first)) as outputs:
        tokens = (await anext(outputs)).token_ids
        with pytest.raises(ValueError, match="in use"):
            await collect(client, first)
        async with asyncio.timeout(20):
            async for output in outputs:
                tokens += output.token_ids
    assert len(tokens) == 200


async def test_an_idle_engine_sleeps(client: ProcessClient):
    await eventually(lambda: client.stats().num_running == 0)
    (engine,) = engine_processes()
    engine.cpu_percent()
    here = psutil.Process()
    here.cpu_percent()
    await asyncio.sleep(2.5)
    assert engine.cpu_percent() < 3
    assert here.cpu_percent() < 3


async def test_on_the_cpu_the_server_goes_first(client: ProcessClient):
    (engine,) = engine_processes()
    assert engine.nice() == min(psutil.Process().nice() + NICENESS, 19)


async def test_a_killed_engine_is_named_to_those_who_wait_and_replaced(tiny_quantized: Path):
    others = set(engine_processes())
    async with running_client(tiny_quantized) as client:
        (engine,) = set(engine_processes()) - others
        async with aclosing(client.generate(request(500))) as outputs:
            await anext(outputs)
            os.kill(engine.pid, signal.SIGKILL)
            async with asyncio.timeout(20):
                with pytest.raises(EngineDeadError, match="ended .signal 9."):
                    async for _ in outputs:
                        pass
        assert not client.health().is_healthy
        assert "signal 9" in client.health().cause
        with pytest.raises(EngineDeadError, match="signal 9"):
            await collect(client, request(2))
        await eventually(lambda: client.health().is_ready)
        assert client.stats() == EngineStats()
        assert (await collect(client, request(2)))[-1].finish_reason is FinishReason.LENGTH


async def test_a_model_that_cannot_load_is_one_sentence(tiny_dense: Path, tmp_path: Path):
    folder = shutil.copytree(tiny_dense, tmp_path / "model")
    (folder / "model.safetensors").unlink()
    client = ProcessClient(EngineConfig(model=folder))
    with pytest.raises(EngineStartError, match="holds no .safetensors file") as error:
        await client.start()
    assert "\n" not in str(error.value)
    await client.close()


async def test_close_leaves_no_process_and_no_folder(
    tiny_quantized: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = {process.pid for process in engine_processes()}
    async with running_client(tiny_quantized) as client:
        waiting = asyncio.create_task(collect(client, request(500)))
        await eventually(lambda: client.stats().num_running == 1)
        assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(EngineDeadError, match="shutting down"):
        await waiting
    assert {process.pid for process in engine_processes()} == before
    assert list(tmp_path.iterdir()) == []
