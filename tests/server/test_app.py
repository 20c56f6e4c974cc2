"""Routes that are not about generating: models, tokens, probes, the document of the API."""

import json
import subprocess
import sys
import threading
from dataclasses import replace
from importlib.metadata import version

import httpx
import pytest

from qoq.server.app import build_app
from qoq.server.tokenizer import Tokenizer

HI = {"model": "fake", "messages": [{"role": "user", "content": "Hi"}]}


def test_import_leaves_heavy_packages_out() -> None:
    """A server process that imports torch starts a second later and is 300 MiB larger."""
    code = "import qoq.server.app, sys; print({'torch', 'transformers'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == "set()", run.stdout + run.stderr


async def test_models(client: httpx.AsyncClient) -> None:
    listed = (await client.get("/v1/models")).json()
    assert listed["object"] == "list"
    (model,) = listed["data"]
    assert model["id"] == "fake"
    assert model["object"] == "model"
    assert model["max_model_len"] == 256
    assert (await client.get("/v1/models/fake")).json() == model
    assert (await client.get("/v1/models/org/other")).status_code == 404


async def test_tokenize_and_back(client: httpx.AsyncClient) -> None:
    answer = (await client.post("/tokenize", json={"prompt": "naïve<|end|>"})).json()
    tokens = [*"naïve".encode(), 257]
    assert answer == {"count": len(tokens), "max_model_len": 256, "tokens": tokens}
    answer = (await client.post("/detokenize", json={"tokens": tokens})).json()
    assert answer == {"prompt": "naïve<|end|>"}


async def test_tokenize_messages_as_chat_would(client: httpx.AsyncClient, engine) -> None:
    tokens = (await client.post("/tokenize", json={"messages": HI["messages"]})).json()["tokens"]
    await client.post("/v1/chat/completions", json={**HI, "max_tokens": 1})
    assert engine.requests[0].prompt_token_ids == tokens
    body = {"messages": HI["messages"], "add_generation_prompt": False}
    shorter = (await client.post("/tokenize", json=body)).json()["tokens"]
    assert tokens[: len(shorter)] == shorter != tokens


async def test_a_template_without_bos_gets_none(engine, checkpoint, tmp_path, config) -> None:
    """Special tokens of a chat are the template's business, whatever the tokenizer would add."""
    settings = {"bos_token": "<|bos|>", "add_bos_token": True, "chat_template": "bare"}
    (tmp_path / "tokenizer.json").write_bytes((checkpoint / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    app = build_app(engine, Tokenizer.load(tmp_path), config)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://qoq") as bare:
        await bare.post("/v1/chat/completions", json={**HI, "max_tokens": 1})
        await bare.post("/v1/completions", json={"model": "fake", "prompt": "bare"})
        await bare.post("/v1/completions", json={"model": "fake", "prompt": ["bare", "x" * 200]})
    prompts = [bytes(request.prompt_token_ids[-4:]) for request in engine.requests[:3]]
    assert prompts == [b"bare"] * 3
    assert [len(request.prompt_token_ids) for request in engine.requests] == [4, 5, 5, 201]


async def test_long_prompts_are_tokenized_off_the_loop(client, tokenizer, monkeypatch) -> None:
    """A second's worth of tokenizing on the loop is a second's pause in every stream."""
    threads, encode = [], tokenizer.encode

    def spy(text: str, **options: bool) -> list[int]:
        threads.append(threading.current_thread() is threading.main_thread())
        return encode(text, **options)

    monkeypatch.setattr(tokenizer, "encode", spy)
    for num_chars in (100, 20_000):
        answer = (await client.post("/tokenize", json={"prompt": "x" * num_chars})).json()
        assert answer["count"] == num_chars
    assert threads == [True, False]


async def test_probes_while_loading(client: httpx.AsyncClient, engine) -> None:
    """Alive, but not to be sent requests yet."""
    engine.is_ready = False
    assert (await client.get("/health")).status_code == 200
    for answer in (
        await client.get("/ready"),
        await client.get("/v1/models"),
        await client.post("/v1/chat/completions", json=HI),
    ):
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "engine_not_ready"
        assert int(answer.headers["retry-after"]) > 0
    engine.is_ready = True
    assert (await client.get("/ready")).status_code == 200


async def test_probes_of_a_dead_engine_name_the_cause(client: httpx.AsyncClient, engine) -> None:
    engine.cause = "the engine process was killed by signal 9"
    for path in ("/health", "/ready", "/v1/models"):
        answer = await client.get(path)
        assert answer.status_code == 503
        assert answer.json()["error"]["message"] == engine.cause
        assert answer.json()["error"]["code"] == "engine_dead"
        assert int(answer.headers["retry-after"]) > 0


async def test_several_names_are_one_model(engine, tokenizer, config) -> None:
    """Answers carry the name that was asked for."""
    app = build_app(engine, tokenizer, replace(config, served_model_names=("one", "two")))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://qoq") as client:
        listed = (await client.get("/v1/models")).json()["data"]
        assert [model["id"] for model in listed] == ["one", "two"]
        assert (await client.get("/v1/models/two")).json() == listed[1]
        answer = (await client.post("/v1/chat/completions", json={**HI, "model": "two"})).json()
        assert answer["model"] == "two"
        missing = await client.post("/v1/chat/completions", json=HI)
        assert missing.status_code == 404
        assert "'one', 'two'" in missing.json()["error"]["message"]


async def test_tokenizer_info(client: httpx.AsyncClient) -> None:
    info = (await client.get("/tokenizer_info")).json()
    assert info["special_tokens"] == {"bos_token": "<|bos|>", "eos_token": "<|end|>"}
    assert (info["bos_token"], info["eos_token"], info["pad_token"]) == (
        "<|bos|>",
        "<|end|>",
        None,
    )
    assert (info["bos_token_id"], info["eos_token_ids"]) == (256, [257])
    assert (info["vocab_size"], info["max_model_len"]) == (260, 256)
    assert "messages" in info["chat_template"]


async def test_version(client: httpx.AsyncClient) -> None:
    assert (await client.get("/version")).json() == {"version": version("qoq")}


async def test_openapi_document(client: httpx.AsyncClient) -> None:
    """Every route is in it, with its errors, and nothing that we never answer."""
    document = (await client.get("/openapi.json")).json()
    assert document["openapi"].startswith("3.")
    assert {"/v1/embeddings", "/load", "/tokenizer_info"} <= set(document["paths"])
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert {"200", "400", "401", "429", "503"} <= set(operation["responses"]), path
    schemas = document["components"]["schemas"]
    body = schemas["ChatCompletionRequest"]
    assert body["additionalProperties"] is False
    assert set(body["required"]) == {"model", "messages"}
    assert "HTTPValidationError" not in schemas
    missing = [ref for ref in _references(document) if ref.rpartition("/")[2] not in schemas]
    assert missing == []


def _references(node: object) -> list[str]:
    if isinstance(node, dict):
        found = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return found + [ref for value in node.values() for ref in _references(value)]
    if isinstance(node, list):
        return [ref for value in node for ref in _references(value)]
    return []


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/v1/models/fake/"])
async def test_no_other_routes(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path)).status_code == 404
