"""What a token costs the relay and each of several API processes, and how it is shared out.

Run alone, with output: ``pytest -m slow -s tests/server/test_relay_rate.py``. Wall time says little
where clients, relay and API processes have fewer cores than there are of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import psutil
import pytest

from qoq.engine.protocol import GenerateRequest
from qoq.engine.relay import Relay
from qoq.server.api_processes import ApiProcesses
from qoq.server.config import ServerConfig
from qoq.server.http_server import listen_together

from .stepping_engine import SteppingEngine
from .test_stream_rate import CLIENT, NUM_CLIENTS, NUM_TOKENS

TOTAL = NUM_CLIENTS * NUM_TOKENS
EASY = 10_000  # tokens/s at which an API process keeps up, so that each token is an event


class RelayedEngine(SteppingEngine):
    """As the relay knows an engine: outputs go to a sink."""

    async def submit(self, request: GenerateRequest, sink: object) -> None:
        self._mailboxes[request.request_id] = sink
        self._num_left[request.request_id] = request.sampling.max_tokens
        if self._stepping is None or self._stepping.done():
            self._stepping = asyncio.create_task(self._run())

    async def forget(self, request_id: str) -> None:
        self._mailboxes.pop(request_id, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """CPU microseconds of this process, which relays, and of each API process, and events: each
    over all tokens. An engine that paces itself spins, so the relay's counts where it does not."""

    events: float
    relay_us: float
    api_us: list[float]

    def __str__(self) -> str:
        api = " + ".join(f"{us:.1f}" for us in self.api_us)
        return f"{api} us of CPU and {self.events:.2f} events a token"


async def measure(config: ServerConfig, tokens_per_s: float | None) -> Rate:
    with contextlib.ExitStack() as sockets:
        listeners = listen_together("127.0.0.1", 0, config.api_workers)
        for listener in listeners:
            sockets.enter_context(listener)
        port = listeners[0].getsockname()[1]
        api = sockets.enter_context(ApiProcesses.start(config, listeners))
        relaying = asyncio.create_task(Relay(RelayedEngine(tokens_per_s), api.address).run())
        await _until_ready(port)
        members = [psutil.Process(process.pid) for process in api.processes]
        before, cpu_s = [_cpu_s(member) for member in members], time.process_time()
        events = await _stream(port)
        cpu_s = time.process_time() - cpu_s
        spent = [_cpu_s(member) - start for member, start in zip(members, before, strict=True)]
        relaying.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await relaying
    return Rate(
        events=events / TOTAL,
        relay_us=1e6 * cpu_s / TOTAL,
        api_us=[1e6 * seconds / TOTAL for seconds in spent],
    )


async def _until_ready(port: int) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        for _ in range(300):
            with contextlib.suppress(httpx.TransportError):
                if (await client.get("/ready")).status_code == 200:
                    return
            await asyncio.sleep(0.1)
    pytest.fail("the API processes did not start")


async def _stream(port: int) -> int:
    """The number of events that all clients got."""
    body = {"model": "fake", "prompt": "Hi", "max_tokens": NUM_TOKENS, "stream": True}
    command = [sys.executable, "-c", CLIENT, str(port), str(NUM_CLIENTS), json.dumps(body)]
    client = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    output, _ = await asyncio.wait_for(client.communicate(), 120)
    return int(output)


def _cpu_s(process: psutil.Process) -> float:
    return sum(process.cpu_times()[:2])


@pytest.mark.slow
async def test_work_is_shared_out_evenly(
    config: ServerConfig,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """256 clients that come at once are dealt out like coins: a third to one is 5 sigma away."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "")  # what is set here is undone
    config = replace(
        config,
        engine=replace(config.engine, model=checkpoint, max_num_seqs=NUM_CLIENTS),
        served_model_names=("fake",),
        api_workers=2,
    )
    rushed, paced = await measure(config, None), await measure(config, EASY)
    with capsys.disabled():
        print(f"\ntwo API processes: {paced}, relay {rushed.relay_us:.1f} us")
    assert min(paced.api_us) > max(paced.api_us) / 2
