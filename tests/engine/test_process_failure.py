"""A device that fails in mid-run: who waits is told why, and the engine comes back."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from qoq.engine import worker
from qoq.engine.config import EngineConfig
from qoq.engine.process_client import ProcessClient
from qoq.engine.protocol import EngineDeadError, GenerateRequest, SamplingParams

from . import failing_process


async def ask(client: ProcessClient, request_id: str, max_tokens: int = 500) -> list[int]:
    sampling = SamplingParams(max_tokens=max_tokens, temperature=0.0)
    wanted = GenerateRequest(request_id=request_id, prompt_token_ids=[1, 2, 3], sampling=sampling)
    return [token async for output in client.generate(wanted) for token in output.token_ids]


@pytest.mark.parametrize("place", ["submit", "result", "hang"])
async def test_a_fatal_error_is_told_to_all_and_the_engine_restarts(
    place: str, monkeypatch: pytest.MonkeyPatch
):
    """Nor does the device's second error, while it is closed, take the place of the first."""
    monkeypatch.setattr(worker, "_run", failing_process.run)
    monkeypatch.syspath_prepend(Path(__file__).parents[2])  # for the child
    client = ProcessClient(EngineConfig(model=Path(place)))
    async with asyncio.timeout(60):
        await client.start()
        both = await asyncio.gather(ask(client, "a"), ask(client, "b"), return_exceptions=True)
        assert [type(error) for error in both] == [EngineDeadError] * 2
        message = f"the engine failed: RuntimeError: {failing_process.MESSAGE}"
        assert [str(error) for error in both] == [message] * 2
        while not client.health().is_ready:
            await asyncio.sleep(0.02)
        assert await ask(client, "c", max_tokens=2) == [7, 7]
        await client.close()
