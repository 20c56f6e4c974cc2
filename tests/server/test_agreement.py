"""Random requests to a real engine: a stream adds up to the whole answer, and its logprobs to a
second scoring of the same tokens by the offline engine, to the last bit."""

from __future__ import annotations

import asyncio
import json
import string
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
import pytest_asyncio

from qoq.engine.config import EngineConfig
from qoq.engine.llm import LLM
from qoq.engine.process_client import ProcessClient
from qoq.engine.protocol import Pooling, SamplingParams
from qoq.quantize.quantize import quantize_model
from qoq.quantize.recipe import Recipe
from qoq.server.app import build_app
from qoq.server.config import ServerConfig
from qoq.server.tokenizer import Tokenizer

from ..engine.talking_model import write_talking_model

# The engine process serves all of this module, so its tests share an event loop.
pytestmark = pytest.mark.asyncio(loop_scope="module")

TEMPLATE = "{% for message in messages %}{{ message.content }}\n{% endfor %}"
ALPHABET = "ab \nzé日🙂"
STOPS = string.ascii_letters + string.digits
NUM_IN_FLIGHT = 16
Json = dict[str, Any]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    dense = write_talking_model(tmp_path_factory.mktemp("talking") / "dense")
    settings = {"bos_token": "<bos>", "eos_token": "<eos>", "chat_template": TEMPLATE}
    (dense / "tokenizer_config.json").write_text(json.dumps(settings))
    return quantize_model(dense, dense.parent / "w4a8kv4", recipe=Recipe(group_size=32))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(model: Path) -> AsyncIterator[httpx.AsyncClient]:
    config = EngineConfig(model=model, num_threads=1, max_num_batched_tokens=64)
    engine = ProcessClient(config)
    await engine.start()
    app = build_app(engine, Tokenizer.load(model), ServerConfig(engine=config))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://qoq", timeout=120) as client:
        yield client
    await engine.close()


def random_request(seed: int) -> tuple[str, Json]:
    """Path and body. Stop strings are short, so that many of the random texts end in one."""
    draw = Random(seed)
    text = "".join(draw.choices(ALPHABET, k=draw.randint(1, 60)))
    body: Json = {"model": "w4a8kv4", "seed": seed, "n": draw.choice([1, 1, 2, 3])}
    body["max_tokens"] = draw.randint(1, 40)
    body["temperature"] = draw.choice([0.0, 0.7, 1.5])
    body["stop"] = ["".join(draw.choices(STOPS, k=draw.choice([1, 1, 2]))) for _ in range(6)]
    body["include_stop_str_in_output"] = draw.random() < 0.3
    body["min_tokens"] = draw.choice([0, 0, 1, body["max_tokens"] // 2])
    body["return_token_ids"] = True
    count = draw.choice([None, 0, 3])
    if draw.random() < 0.5:
        body |= {"messages": [{"role": "user", "content": text}]}
        body |= {} if count is None else {"logprobs": True, "top_logprobs": count}
        return "/v1/chat/completions", body
    body |= {"prompt": text, "logprobs": count, "echo": draw.random() < 0.3}
    return "/v1/completions", body


def shown(choice: Json) -> Json:
    """A whole choice, or what a chunk adds to one, without lists that are empty."""
    said = choice.get("message") or choice.get("delta")
    logprobs = choice["logprobs"] or {}
    columns = ("content", "tokens", "token_logprobs", "top_logprobs", "text_offset")
    return {
        "text": choice["text"] if said is None else said.get("content") or "",
        "token_ids": choice.get("token_ids", []),
        "logprobs": {name: logprobs[name] for name in columns if logprobs.get(name)},
    }


def add_up(events: str) -> tuple[list[Json], list[str | None]]:
    choices: dict[int, Json] = {}
    reasons: dict[int, str | None] = {}
    *chunks, done, end = events.split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    for chunk in chunks:
        for choice in json.loads(chunk.removeprefix("data: "))["choices"]:
            index, added = choice["index"], shown(choice)
            assert reasons.get(index) is None, "a chunk came after the last one"
            reasons[index] = choice["finish_reason"]
            whole = choices.setdefault(index, {"text": "", "token_ids": [], "logprobs": {}})
            whole["text"] += added["text"]
            whole["token_ids"] += added["token_ids"]
            for name, values in added["logprobs"].items():
                whole["logprobs"].setdefault(name, []).extend(values)
    return [choices[i] for i in sorted(choices)], [reasons[i] for i in sorted(reasons)]


async def check_agreement(client: httpx.AsyncClient, model: Path, seeds: range) -> None:
    gate = asyncio.Semaphore(NUM_IN_FLIGHT)

    async def ask(seed: int) -> tuple[Json, Json]:
        path, body = random_request(seed)
        async with gate:
            whole, streamed = await asyncio.gather(
                client.post(path, json=body), client.post(path, json=body | {"stream": True})
            )
        assert whole.status_code == streamed.status_code == 200, whole.text
        choices = whole.json()["choices"]
        expected = [shown(c) for c in choices], [c["finish_reason"] for c in choices]
        assert add_up(streamed.text) == expected, (seed, body)
        return body, whole.json()

    answers = await asyncio.gather(*(ask(seed) for seed in seeds))
    reasons = [choice["finish_reason"] for _, a in answers for choice in a["choices"]]
    assert min(reasons.count("stop"), reasons.count("length")) > len(seeds) // 5
    check_logprobs(model, [answer for body, answer in answers if body.get("logprobs") is not None])


def check_logprobs(model: Path, answers: list[Json]) -> None:
    llm = LLM(EngineConfig(model=model, num_threads=1))
    asked = [(answer, choice) for answer in answers for choice in answer["choices"]]
    prompts = [(c if "text" in c else a)["prompt_token_ids"] for a, c in asked]
    texts = [prompt + c["token_ids"] for prompt, (_, c) in zip(prompts, asked, strict=True)]
    scored = llm.generate(texts, SamplingParams(max_tokens=1, prompt_logprobs=0))
    llm.close()
    assert len(asked) > len(answers) and any(c["logprobs"] for _, c in asked)
    for prompt, (_, choice), second in zip(prompts, asked, scored, strict=True):
        exact = [None, *(own.logprob for own in second.prompt_logprobs)]
        found = found_logprobs(choice)
        start = 0 if found and found[0] is None else len(prompt)
        assert found == exact[start : start + len(found)]


def found_logprobs(choice: Json) -> list[float | None]:
    if "text" in choice:
        found: list[float | None] = choice["logprobs"]["token_logprobs"]
        return found
    return [entry["logprob"] for entry in choice["logprobs"]["content"]]


async def test_200_random_requests(client: httpx.AsyncClient, model: Path) -> None:
    await check_agreement(client, model, range(200))


async def test_embeddings_are_the_offline_engines(client: httpx.AsyncClient, model: Path) -> None:
    prompts = [[5, 6, 7], list(range(100)), [5, 6]]
    body = {"model": "w4a8kv4", "input": prompts, "pooling": "last"}
    answer = await client.post("/v1/embeddings", json=body)
    llm = LLM(EngineConfig(model=model, num_threads=1))
    exact = llm.generate(prompts, SamplingParams(max_tokens=1, pooling=Pooling.LAST))
    llm.close()
    found = [entry["embedding"] for entry in answer.json()["data"]]
    assert found == [completion.embedding for completion in exact]


async def test_a_salt_keeps_caches_apart(client: httpx.AsyncClient) -> None:
    """Fails where another tenant's prompt can be found out by how fast it is, or is counted."""

    async def cached(salt: str | None) -> int:
        body = {"model": "w4a8kv4", "prompt": "x" * 200, "max_tokens": 1, "cache_salt": salt}
        usage = (await client.post("/v1/completions", json=body)).json()["usage"]
        return usage["prompt_tokens_details"]["cached_tokens"]

    salts = ["a", "b", None, "a", None, "b"]
    assert [await cached(salt) for salt in salts] == [0, 0, 0, 192, 192, 192]
