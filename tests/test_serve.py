"""`qoq serve` as a user runs it: a process, a port, the official client, a sentence on failure."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from openai import OpenAI

QOQ = Path(sys.executable).with_name("qoq")
MODEL = "smollm2-135m-instruct"


def run_serve(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [QOQ, "serve", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environ},
    )


def check_one_sentence(result: subprocess.CompletedProcess[str], *words: str) -> None:
    assert result.returncode == 1, result.stderr
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("qoq serve: "), result.stderr
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in last, last


def test_a_missing_model_is_one_sentence_that_names_the_presets() -> None:
    check_one_sentence(run_serve("/nowhere/model"), "/nowhere/model", MODEL)


def test_a_folder_without_a_model_is_one_sentence(tmp_path: Path) -> None:
    check_one_sentence(run_serve(str(tmp_path)), "config.json")


def test_a_corrupt_checkpoint_is_one_sentence_that_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"')
    check_one_sentence(run_serve(str(tmp_path)), "config.json")


def test_an_unsupported_architecture_is_refused_with_the_list(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["MambaForCausalLM"]}))
    check_one_sentence(run_serve(str(tmp_path)), "MambaForCausalLM", "Qwen3ForCausalLM")


def test_a_setting_out_of_range_is_one_sentence_that_names_it(tmp_path: Path) -> None:
    check_one_sentence(run_serve(str(tmp_path), QOQ_MAX_NUM_SEQS="0"), "max_num_seqs")


class Served:
    """A running `qoq serve` of the default model."""

    def __init__(self, process: psutil.Process, url: str) -> None:
        self.process = process
        self.url = url

    def metric(self, name: str) -> float:
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(f"vllm:{name}{{"))

    def cpu_seconds(self) -> float:
        family = [self.process, *self.process.children(recursive=True)]
        return sum(sum(member.cpu_times()[:2]) for member in family)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("serve") / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [QOQ, "serve", MODEL, "--recipe", "rtn", "--port", str(port)], stdout=file, stderr=file
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_ready(process, url, log)
        family = psutil.Process(process.pid)
        yield Served(family, url)
        children = family.children(recursive=True)
        process.terminate()
        assert process.wait(timeout=30) == 0, log.read_text()
        assert not psutil.wait_procs(children, timeout=5)[1], "the engine outlived the server"
    finally:
        process.kill()


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    for _ in range(600):
        if process.poll() is not None:
            text = log.read_text()
            if "pip" in text and "download" in text:
                pytest.skip(f"the default model cannot be fetched here: {text[-300:]}")
            pytest.fail(text)
        try:
            if httpx.get(f"{url}/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    pytest.fail(f"not ready in two minutes: {log.read_text()}")


@pytest.mark.slow
def test_the_openai_client_streams_an_answer_that_mentions_paris(served: Served) -> None:
    client = OpenAI(base_url=f"{served.url}/v1", api_key="none")
    stream = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "What is the capital of France?"}],
        temperature=0,
        max_tokens=40,
        stream=True,
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    client.close()
    assert "Paris" in text


@pytest.mark.slow
def test_two_hundred_streams_of_which_sixty_leave(served: Served) -> None:
    """Fails where a reader that leaves stops others, or its request runs on and keeps blocks."""
    leavers = set(random.Random(0).sample(range(200), 60))
    finished: list[int] = []

    def stream(index: int) -> None:
        body = {"model": MODEL, "prompt": f"Story {index}:", "max_tokens": 24, "stream": True}
        with httpx.stream(
            "POST",
            f"{served.url}/v1/completions",
            json=body | {"ignore_eos": True, "seed": index},
            timeout=240,
        ) as response:
            for count, line in enumerate(response.iter_lines()):
                if index in leavers and count >= index % 10:
                    return
                if line == "data: [DONE]":
                    finished.append(index)

    threads = [threading.Thread(target=stream, args=(index,)) for index in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(finished) == sorted(set(range(200)) - leavers)
    deadline = time.monotonic() + 10
    while served.metric("num_requests_running") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert served.metric("num_requests_running") == 0
    assert served.metric("num_requests_waiting") == 0
    assert served.metric("kv_cache_usage_perc") == 0.0


@pytest.mark.slow
def test_an_idle_server_uses_less_than_three_percent_of_a_core(served: Served) -> None:
    time.sleep(2)
    before, seconds = served.cpu_seconds(), 5.0
    time.sleep(seconds)
    assert (served.cpu_seconds() - before) / seconds < 0.03


@pytest.mark.slow
def test_metrics_count_exactly(served: Served) -> None:
    """Ten requests, one after another, of P prompt and 10 output tokens."""
    names = ("prompt_tokens_total", "generation_tokens_total", "request_success_total")
    histograms = ("time_to_first_token_seconds_count", "inter_token_latency_seconds_count")
    before = {name: served.metric(name) for name in names + histograms}
    prompt = [5, 6, 7, 8, 9]
    for _ in range(10):
        body = {"model": MODEL, "prompt": prompt, "max_tokens": 10, "ignore_eos": True}
        assert httpx.post(f"{served.url}/v1/completions", json=body, timeout=60).status_code == 200
    grown = [served.metric(name) - before[name] for name in names + histograms]
    assert grown == [10 * len(prompt), 100, 10, 10, 90]


@pytest.mark.slow
def test_a_port_in_use_is_one_sentence_that_names_it(served: Served) -> None:
    port = served.url.rsplit(":", 1)[1]
    check_one_sentence(run_serve(MODEL, "--recipe", "rtn", "--port", port), port)


@pytest.mark.slow
def test_too_little_memory_is_one_sentence_with_the_arithmetic(served: Served) -> None:
    result = run_serve(MODEL, "--recipe", "rtn", "--kv-cache-bytes", "1000TB", "--port", "0")
    check_one_sentence(result, "weights", "KV cache", "available", "--kv-cache-bytes")
