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
    settings = {"eos_token": "<eos>", "chat_template": "{{ messages[-1].content }}"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture
def served(model: Path, tmp_path: Path) -> Iterator[tuple[psutil.Process, str]]:
    flags = ("--precision", "fp32", "--api-workers", "2")
    with serve_process(model, tmp_path / "log", *flags) as process_and_url:
        yield process_and_url


@pytest.mark.slow
def test_two_processes_serve_one_engine(served: tuple[psutil.Process, str], model: Path) -> None:
    """Metrics add up over both, both take connections and know a response that one of them made,
    and a signal ends all with code 0."""
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
    assert _answers_about_a_response(url, model) == {200}
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


def _answers_about_a_response(url: str, model: Path) -> set[int]:
    """Over 20 connections, which all go to the same process once in 2^19."""
    path = f"{url}/v1/responses"
    body = {"model": str(model), "input": "Hi", "max_output_tokens": 2}
    alone = httpx.Limits(max_keepalive_connections=0)
    with httpx.Client(timeout=120, limits=alone) as client:
        response_id = client.post(path, json=body).json()["id"]
        body["previous_response_id"] = response_id
        answers = [client.get(f"{path}/{response_id}") for _ in range(10)]
        answers += [client.post(path, json=body) for _ in range(10)]
    return {answer.status_code for answer in answers}
