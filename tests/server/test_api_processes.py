"""`qoq serve --api-workers 2` on a tiny model: one port, one engine, one set of metrics."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from ..engine.talking_model import write_talking_model
from .serve_process import serve_process


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_talking_model(tmp_path_factory.mktemp("several") / "dense")
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<eos>"}))
    return folder


@pytest.fixture
def served(model: Path, tmp_path: Path) -> Iterator[tuple[psutil.Process, str]]:
    flags = ("--precision", "fp32", "--api-workers", "2")
    with serve_process(model, tmp_path / "log", *flags) as process_and_url:
        yield process_and_url


@pytest.mark.slow
def test_two_processes_serve_one_engine(served: tuple[psutil.Process, str], model: Path) -> None:
    """Metrics add up over both, both take connections, and a signal ends all with code 0."""
    process, url = served
    body = {"model": str(model), "prompt": "Hi", "max_tokens": 20, "ignore_eos": True, "seed": 1}

    async def ask_all() -> list[httpx.Response]:
        async with httpx.AsyncClient(timeout=120) as client:  # a connection for each at a time
            path = f"{url}/v1/completions"
            return await asyncio.gather(*(client.post(path, json=body) for _ in range(60)))

    answers = asyncio.run(ask_all())
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["choices"][0]["text"] for answer in answers}) == 1
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    (total,) = [line for line in lines if line.startswith("vllm:generation_tokens_total{")]
    assert float(total.split()[-1]) == 60 * 20
    assert any(line.startswith("vllm:num_requests_running{") for line in lines)
    children = process.children(recursive=True)
    process.terminate()
    assert process.wait(timeout=40) == 0
    assert not psutil.wait_procs(children, timeout=10)[1]


@pytest.mark.slow
def test_an_api_process_that_dies_ends_the_server(served: tuple[psutil.Process, str]) -> None:
    process, url = served
    workers = [child for child in process.children() if _is_listening(child)]
    assert len(workers) == 2
    workers[0].kill()
    assert process.wait(timeout=60) == 1


def _is_listening(process: psutil.Process) -> bool:
    return any(c.status == psutil.CONN_LISTEN for c in process.net_connections("tcp"))
