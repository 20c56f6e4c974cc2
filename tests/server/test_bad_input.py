"""Every mistake gets a 4xx in OpenAI's shape that names the field, and the server serves on."""

import json
from typing import Any

import httpx
import pytest

CHAT, COMPLETE = "/v1/chat/completions", "/v1/completions"
USER = {"role": "user", "content": "Hi"}
ALIEN = {"role": "alien", "content": "?"}
IMAGE = {"type": "image_url", "image_url": {"url": "http://example.org"}}
CALL = {"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}


def chat(**changes: Any) -> dict[str, Any]:
    return {"model": "fake", "messages": [USER]} | changes


def complete(**changes: Any) -> dict[str, Any]:
    return {"model": "fake", "prompt": "Hi"} | changes


def says(content: object) -> dict[str, Any]:
    return chat(messages=[{"role": "user", "content": content}])


# path, body, param, code
MISTAKES = [
    # the shape of the body
    (CHAT, [], None, "invalid_type"),
    (CHAT, "text", None, "invalid_type"),
    (CHAT, {}, "model", "missing_required_parameter"),
    (CHAT, {"model": "fake"}, "messages", "missing_required_parameter"),
    (COMPLETE, {"model": "fake"}, "prompt", "missing_required_parameter"),
    (CHAT, chat(wings=2), "wings", "unknown_parameter"),
    (CHAT, chat(**{"x" * 5000: 2}), "x" * 64, "unknown_parameter"),
    # wrong types
    (CHAT, chat(temperature="hot"), "temperature", "invalid_type"),
    (CHAT, chat(temperature="1"), "temperature", "invalid_type"),
    (CHAT, chat(max_tokens="5"), "max_tokens", "invalid_type"),
    (CHAT, chat(max_tokens=1.5), "max_tokens", "invalid_type"),
    (CHAT, chat(max_tokens=True), "max_tokens", "invalid_type"),
    (CHAT, chat(stream="yes"), "stream", "invalid_type"),
    (CHAT, chat(messages="Hi"), "messages", "invalid_type"),
    (CHAT, chat(messages=["Hi"]), "messages[0]", "invalid_type"),
    (CHAT, chat(stop=5), "stop", "invalid_type"),
    (CHAT, chat(stop=[5]), "stop[0]", "invalid_type"),
    (CHAT, chat(model=7), "model", "invalid_type"),
    (COMPLETE, complete(prompt={"a": 1}), "prompt", "invalid_type"),
    (COMPLETE, complete(prompt=["a", 1]), "prompt[1]", "invalid_type"),
    (COMPLETE, complete(prompt=[1, "a"]), "prompt[1]", "invalid_type"),
    (COMPLETE, complete(prompt=[[1], ["a"]]), "prompt[1][0]", "invalid_type"),
    (COMPLETE, complete(prompt=None), "prompt", "invalid_type"),
    # the model
    (CHAT, chat(model="gpt-9"), "model", "model_not_found"),
    (COMPLETE, complete(model="gpt-9"), "model", "model_not_found"),
    ("/tokenize", {"model": "gpt-9", "prompt": "Hi"}, "model", "model_not_found"),
    # messages
    (CHAT, chat(messages=[]), "messages", "empty_array"),
    (CHAT, chat(messages=[USER, ALIEN]), "messages[1].role", "invalid_value"),
    (CHAT, chat(messages=[{"role": "user"}]), "messages[0].content", "missing_required_parameter"),
    (CHAT, chat(messages=[{"content": "Hi"}]), "messages[0].role", "missing_required_parameter"),
    (CHAT, says(None), "messages[0].content", "invalid_type"),
    (CHAT, says([]), "messages[0].content", "empty_array"),
    (CHAT, says([IMAGE]), "messages[0].content[0].type", "invalid_value"),
    (CHAT, says([{"type": "text"}]), "messages[0].content[0].text", "missing_required_parameter"),
    (CHAT, chat(messages=[USER | {"mood": 1}]), "messages[0].mood", "unknown_parameter"),
    (CHAT, says("half a \ud83d"), "messages[0].content", "invalid_value"),
    # prompts
    (COMPLETE, complete(prompt=""), "prompt", "empty_array"),
    (COMPLETE, complete(prompt=[]), "prompt", "empty_array"),
    (COMPLETE, complete(prompt=[[1], []]), "prompt[1]", "empty_array"),
    (COMPLETE, complete(prompt=["a", ""]), "prompt", "empty_array"),
    (COMPLETE, complete(prompt=[1, 260]), "prompt", "invalid_value"),
    (COMPLETE, complete(prompt=[[1], [2**31 - 1]]), "prompt", "invalid_value"),
    (COMPLETE, complete(prompt=[1, 2**40]), "prompt[1]", "integer_above_max_value"),
    (COMPLETE, complete(prompt=[1, -1]), "prompt[1]", "integer_below_min_value"),
    (COMPLETE, complete(prompt=["a"] * 129), "prompt", "array_above_max_length"),
    (COMPLETE, complete(prompt=["a"] * 3000), "prompt", "array_above_max_length"),
    ("/detokenize", {"tokens": [260]}, "tokens", "invalid_value"),
    ("/detokenize", {"tokens": "x"}, "tokens", "invalid_type"),
    ("/tokenize", {}, None, "invalid_value"),
    ("/tokenize", {"prompt": "a", "messages": [USER]}, None, "invalid_value"),
    # lengths
    (COMPLETE, complete(prompt="x" * 256), "prompt", "context_length_exceeded"),
    (CHAT, says("x" * 256), "messages", "context_length_exceeded"),
    (COMPLETE, complete(max_tokens=255), "max_tokens", "context_length_exceeded"),
    (CHAT, chat(max_completion_tokens=250), "max_completion_tokens", "context_length_exceeded"),
    (CHAT, chat(max_tokens=2**31 - 1), "max_tokens", "context_length_exceeded"),
    (CHAT, chat(max_tokens=10**30), "max_tokens", "integer_above_max_value"),
    (CHAT, chat(max_tokens=0), "max_tokens", "integer_below_min_value"),
    (CHAT, chat(max_tokens=-5), "max_tokens", "integer_below_min_value"),
    (CHAT, chat(max_completion_tokens=-5), "max_completion_tokens", "integer_below_min_value"),
    (CHAT, chat(max_tokens=5, max_completion_tokens=6), "max_tokens", "invalid_value"),
    # numbers out of range
    (CHAT, chat(n=0), "n", "integer_below_min_value"),
    (CHAT, chat(n=129), "n", "integer_above_max_value"),
    (CHAT, chat(n=17), "n", "integer_above_max_value"),  # the engine runs 16 at once
    (CHAT, chat(temperature=-0.1), "temperature", "decimal_below_min_value"),
    (CHAT, chat(temperature=2.5), "temperature", "decimal_above_max_value"),
    (CHAT, chat(top_p=0), "top_p", "decimal_below_min_value"),
    (CHAT, chat(top_p=1.5), "top_p", "decimal_above_max_value"),
    (CHAT, chat(top_k=-2), "top_k", "integer_below_min_value"),
    (CHAT, chat(min_p=-0.5), "min_p", "decimal_below_min_value"),
    (CHAT, chat(presence_penalty=3), "presence_penalty", "decimal_above_max_value"),
    (CHAT, chat(frequency_penalty=-3), "frequency_penalty", "decimal_below_min_value"),
    (CHAT, chat(repetition_penalty=0), "repetition_penalty", "decimal_below_min_value"),
    (CHAT, chat(seed=2**63), "seed", "integer_above_max_value"),
    (CHAT, chat(stop=""), "stop", "empty_string"),
    (CHAT, chat(stop=["a", ""]), "stop[1]", "empty_string"),
    (CHAT, chat(stop=["a"] * 17), "stop", "array_above_max_length"),
    (CHAT, chat(stop="a" * 257), "stop", "string_above_max_length"),
    (CHAT, chat(stream_options={"include_usage": True}), "stream_options", "invalid_value"),
    (CHAT, chat(stream=True, stream_options={"x": 1}), "stream_options.x", "unknown_parameter"),
    # logprobs
    (CHAT, chat(logprobs=5), "logprobs", "invalid_type"),
    (CHAT, chat(top_logprobs=3), "top_logprobs", "invalid_value"),
    (CHAT, chat(logprobs=True, top_logprobs=21), "top_logprobs", "integer_above_max_value"),
    (COMPLETE, complete(logprobs=21), "logprobs", "integer_above_max_value"),
    (COMPLETE, complete(logprobs=True), "logprobs", "invalid_type"),
    (CHAT, chat(prompt_logprobs=-1), "prompt_logprobs", "integer_below_min_value"),
    (CHAT, chat(prompt_logprobs=1, stream=True), "prompt_logprobs", "invalid_value"),
    # single tokens and words
    (CHAT, chat(logit_bias={"260": 1}), "logit_bias", "invalid_value"),
    (CHAT, chat(logit_bias={"5": 101}), "logit_bias.5", "decimal_above_max_value"),
    (CHAT, chat(logit_bias={"five": 1}), "logit_bias.five", "invalid_value"),
    (CHAT, chat(logit_bias=[5]), "logit_bias", "invalid_type"),
    (CHAT, chat(allowed_token_ids=[]), "allowed_token_ids", "empty_array"),
    (CHAT, chat(allowed_token_ids=[260]), "allowed_token_ids", "invalid_value"),
    (CHAT, chat(stop_token_ids=[2**40]), "stop_token_ids[0]", "integer_above_max_value"),
    (CHAT, chat(stop_token_ids=[260]), "stop_token_ids", "invalid_value"),
    (CHAT, chat(bad_words=[""]), "bad_words[0]", "empty_string"),
    (CHAT, chat(min_tokens=9, max_tokens=8), "min_tokens", "integer_above_max_value"),
    # the rest
    (COMPLETE, complete(best_of=2, n=3), "best_of", "invalid_value"),
    (COMPLETE, complete(best_of=2, stream=True), "best_of", "invalid_value"),
    (COMPLETE, complete(best_of=17), "n", "integer_above_max_value"),
    (COMPLETE, complete(max_tokens=0), "max_tokens", "invalid_value"),
    (CHAT, chat(truncate_prompt_tokens=0), "truncate_prompt_tokens", "invalid_value"),
    (CHAT, chat(timeout=0), "timeout", "decimal_below_min_value"),
    (CHAT, chat(cache_salt=""), "cache_salt", "empty_string"),
    # what OpenAI has and we have not yet
    (CHAT, chat(tools=[{"type": "function"}]), "tools[0].function", "missing_required_parameter"),
    (CHAT, chat(tool_choice="required"), "tool_choice", "invalid_value"),
    (CHAT, chat(audio={"voice": "alloy"}), "audio", "unsupported_parameter"),
    (CHAT, chat(modalities=["audio"]), "modalities", "unsupported_parameter"),
    (CHAT, chat(store=True), "store", "unsupported_parameter"),
    (
        CHAT,
        chat(messages=[CALL]),
        "messages[0].tool_calls[0].function",
        "missing_required_parameter",
    ),
    (COMPLETE, complete(suffix="end"), "suffix", "unsupported_parameter"),
]  # fmt: skip


def check_error(answer: httpx.Response, status: int, param: str | None, code: str | None) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    assert set(answer.json()) == {"error"}
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["param"], error["code"]) == (param, code), error
    assert error["type"] == "invalid_request_error"
    assert 10 < len(error["message"]) < 500


@pytest.mark.parametrize(
    ("path", "body", "param", "code"), MISTAKES, ids=[f"{m[2]}-{m[3]}" for m in MISTAKES]
)
async def test_mistake_is_named(
    client: httpx.AsyncClient, engine, path: str, body: Any, param: str | None, code: str
) -> None:
    content = json.dumps(body)  # httpx's own cannot spell half a surrogate pair
    answer = await client.post(path, content=content, headers={"content-type": "application/json"})
    check_error(answer, 404 if code == "model_not_found" else 400, param, code)
    assert engine.requests == [], "the engine was bothered with it"
    assert (await client.post(CHAT, json=chat(max_tokens=1))).status_code == 200


@pytest.mark.parametrize(
    "content",
    [b"{", b"", b'{"model": "fake",}', b"\xff\xfe{}", b"[" * 100_000 + b"]", b"nope", b"1e5x"],
    ids=["cut", "empty", "comma", "utf16", "deep", "word", "number"],
)
async def test_not_json(client: httpx.AsyncClient, content: bytes) -> None:
    headers = {"content-type": "application/json"}
    answer = await client.post(CHAT, content=content[:99_999], headers=headers)
    code = "invalid_json" if content else "missing_required_parameter"
    check_error(answer, 400, None, code)


async def test_not_announced_as_json(client: httpx.AsyncClient) -> None:
    """A body without a media type, or of a kind of JSON, is read; no other."""
    answer = await client.post(CHAT, data={"model": "fake"})
    check_error(answer, 415, None, "unsupported_media_type")
    assert answer.headers["x-should-retry"] == "false"
    content = json.dumps(complete())
    for headers in (
        {},
        {"content-type": "application/x+json"},
        {"Content-Type": "Application/JSON"},
    ):
        assert (await client.post(COMPLETE, content=content, headers=headers)).status_code == 200


async def test_nan_is_no_number(client: httpx.AsyncClient) -> None:
    content = b'{"model": "fake", "prompt": "Hi", "temperature": NaN}'
    headers = {"content-type": "application/json"}
    answer = await client.post(COMPLETE, content=content, headers=headers)
    check_error(answer, 400, "temperature", "invalid_value")


async def test_a_key_that_is_no_text(client: httpx.AsyncClient) -> None:
    content = b'{"model": "fake", "prompt": "Hi", "\\ud800": 1}'
    headers = {"content-type": "application/json"}
    answer = await client.post(COMPLETE, content=content, headers=headers)
    assert answer.status_code == 400
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


async def test_unknown_route_and_method(client: httpx.AsyncClient) -> None:
    check_error(await client.get("/v2/models"), 404, None, "unknown_url")
    check_error(await client.get("/"), 404, None, "unknown_url")
    answer = await client.get(CHAT)
    check_error(answer, 405, None, "method_not_supported")
    assert answer.headers["allow"] == "POST"
    answer = await client.post("/v1/responses/resp_1", json={})
    assert answer.headers["allow"] == "DELETE, GET", "every method of the path"
    check_error(await client.delete("/v1/models/fake"), 405, None, "method_not_supported")
    check_error(await client.get("/v1/models/gpt-9"), 404, "model", "model_not_found")


async def test_context_arithmetic_is_shown(client: httpx.AsyncClient) -> None:
    answer = await client.post(COMPLETE, json=complete(prompt="x" * 200, max_tokens=57))
    message = "context length is 256 tokens; 200 of the prompt + max_tokens = 57 make 257"
    assert message in answer.text
    assert (
        await client.post(COMPLETE, json=complete(prompt="x" * 200, max_tokens=56))
    ).status_code == 200


async def test_asking_for_nothing_is_no_mistake(client: httpx.AsyncClient) -> None:
    """Clients spell defaults out, and send fields along that change no token."""
    neutral = chat(
        max_tokens=1,
        n=None,
        logprobs=False,
        tools=[],
        tool_choice="auto",
        response_format={"type": "text"},
        logit_bias={},
        modalities=["text"],
        store=False,
        user="me",
        metadata={"a": "b"},
        service_tier="auto",
        safety_identifier="x",
        prompt_cache_key="k",
        parallel_tool_calls=True,
        stop=[],
        top_k=-1,
        messages=[
            USER,
            {"role": "assistant", "content": "Yo", "refusal": None, "tool_calls": []},
        ],
    )
    assert (await client.post(CHAT, json=neutral)).status_code == 200
    body = complete(echo=False, best_of=1, logprobs=None, suffix=None, max_tokens=1)
    assert (await client.post(COMPLETE, json=body)).status_code == 200
