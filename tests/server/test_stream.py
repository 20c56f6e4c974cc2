"""The official client against a real server: whole answers, streams, choices, stop strings."""

import json
from dataclasses import replace

import httpx
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionChunk

from qoq.server import answer

USER = {"role": "user", "content": "Hi"}


@pytest.fixture
def official(url: str) -> openai.OpenAI:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_chat_whole(official: openai.OpenAI, engine) -> None:
    engine.say("Paris, naïvely 🙂")
    reply = official.chat.completions.create(model="fake", messages=[USER], temperature=0)
    assert reply.object == "chat.completion"
    assert reply.id.startswith("chatcmpl-")
    assert reply.choices[0].message.content == "Paris, naïvely 🙂"
    assert reply.choices[0].message.role == "assistant"
    assert reply.choices[0].finish_reason == "stop"
    num_prompt, num_completion = len(engine.requests[0].prompt_token_ids), len(engine.reply)
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (
        num_prompt,
        num_completion,
    )
    assert reply.usage.total_tokens == num_prompt + num_completion
    assert engine.aborted == []


def test_chat_stream(official: openai.OpenAI, engine) -> None:
    """Role first, whole characters only, one finish, then the usage with no choices."""
    engine.say("Paris, naïvely 🙂")
    stream = official.chat.completions.create(
        model="fake", messages=[USER], stream=True, stream_options={"include_usage": True}
    )
    chunks: list[ChatCompletionChunk] = list(stream)
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    *content, usage = chunks
    assert content[0].choices[0].delta.role == "assistant"
    deltas = [chunk.choices[0].delta.content or "" for chunk in content]
    assert "".join(deltas) == "Paris, naïvely 🙂"
    assert "🙂" in deltas
    reasons = [chunk.choices[0].finish_reason for chunk in content]
    assert reasons == [None] * (len(content) - 1) + ["stop"]
    assert all(chunk.usage is None for chunk in content)
    assert usage.choices == []
    assert usage.usage.completion_tokens == len(engine.reply)


async def test_async_client(url: str, engine) -> None:
    engine.say("async")
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        whole = await client.completions.create(model="fake", prompt="Hi")
        assert whole.choices[0].text == "async"
        text = ""
        async for chunk in await client.completions.create(model="fake", prompt="Hi", stream=True):
            text += chunk.choices[0].text
        assert text == "async"


def test_completions_default_to_16_tokens_and_clip_to_the_context(
    official: openai.OpenAI, engine
) -> None:
    reply = official.completions.create(model="fake", prompt="Hi")
    assert reply.object == "text_completion"
    assert (reply.choices[0].finish_reason, reply.usage.completion_tokens) == ("length", 16)
    official.completions.create(model="fake", prompt="x" * 250)
    official.chat.completions.create(model="fake", messages=[USER])
    clipped, chat = engine.requests[1:]
    assert clipped.sampling.max_tokens == 6
    assert chat.sampling.max_tokens == 256 - len(chat.prompt_token_ids)


def test_parameters_reach_the_engine(official: openai.OpenAI, engine) -> None:
    extra = {"top_k": -1, "min_p": 0.1, "repetition_penalty": 1.1, "priority": -3}
    official.chat.completions.create(
        model="fake",
        messages=[USER],
        max_completion_tokens=7,
        temperature=0,
        top_p=0.9,
        seed=-1,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        extra_body={**extra, "ignore_eos": True},
    )
    (request,) = engine.requests
    sampling = request.sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p) == (7, 0.0, 0.9)
    assert (sampling.top_k, sampling.min_p, sampling.repetition_penalty) == (0, 0.1, 1.1)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.5, -0.5)
    assert (sampling.seed, request.priority) == (2**63 - 1, -3)
    assert sampling.stop_token_ids == ()
    assert request.arrival_s > 0


def test_n_choices_have_seeds_of_their_own(official: openai.OpenAI, engine) -> None:
    reply = official.completions.create(
        model="fake", prompt="Hi", n=3, seed=2**63 - 2, max_tokens=4
    )
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    assert len({request.request_id for request in engine.requests}) == 3
    seeds = [request.sampling.seed for request in engine.requests]
    assert seeds == [2**63 - 2, 2**63 - 1, 0]
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (2, 12)
    official.completions.create(model="fake", prompt="Hi")
    official.completions.create(model="fake", prompt="Hi")
    first, second = (request.sampling.seed for request in engine.requests[3:])
    assert first != second, "a missing seed is a random one"


@pytest.mark.parametrize("prompt", [["a", "bc"], [[97], [98, 99]]], ids=["texts", "tokens"])
@pytest.mark.parametrize("stream", [False, True])
def test_prompts_times_n(official: openai.OpenAI, engine, prompt: list, stream: bool) -> None:
    reply = official.completions.create(
        model="fake", prompt=prompt, n=2, max_tokens=5, seed=7, stream=stream
    )
    texts, reasons = [""] * 4, [None] * 4
    for part in reply if stream else [reply]:
        for choice in part.choices:
            texts[choice.index] += choice.text
            reasons[choice.index] = reasons[choice.index] or choice.finish_reason
    assert (texts, reasons) == (["Hello"] * 4, ["length"] * 4)
    by_id = sorted(engine.requests, key=lambda request: request.request_id)
    assert [request.prompt_token_ids for request in by_id] == [[97], [97], [98, 99], [98, 99]]
    assert [request.sampling.seed for request in by_id] == [7, 8, 7, 8]
    assert {request.sampling.stop_token_ids for request in engine.requests} == {(257,)}


def test_stop_string_ends_the_request(official: openai.OpenAI, engine, wait_until) -> None:
    """Nothing of it is shown, the finish reason is "stop", and the engine need not go on."""
    engine.reply = list(b"one STOP two ")
    reply = official.completions.create(
        model="fake", prompt="Hi", stop=["STOP", "never"], max_tokens=200
    )
    assert (reply.choices[0].text, reply.choices[0].finish_reason) == ("one ", "stop")
    stream = official.completions.create(
        model="fake", prompt="Hi", stop="STOP", max_tokens=200, stream=True
    )
    assert "".join(chunk.choices[0].text for chunk in stream) == "one "
    wait_until(lambda: not engine.running)
    assert engine.aborted == [request.request_id for request in engine.requests]


def test_what_a_stop_string_held_back_comes_at_the_end(official: openai.OpenAI, engine) -> None:
    engine.say("wait ST")
    for stream in (False, True):
        reply = official.completions.create(model="fake", prompt="Hi", stop="STOP", stream=stream)
        parts = list(reply) if stream else [reply]
        assert "".join(part.choices[0].text for part in parts) == "wait ST"
        assert parts[-1].choices[0].finish_reason == "stop"
    assert engine.aborted == []


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_outputs_of_many_tokens(official: openai.OpenAI, engine, count: int) -> None:
    engine.say("日本 🙂 done")
    engine.tokens_per_output = count
    stream = official.chat.completions.create(model="fake", messages=[USER], stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "日本 🙂 done"


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    reply=st.lists(st.integers(0, 259), min_size=1, max_size=20),
    stop=st.lists(st.text("abc é", min_size=1, max_size=3), max_size=3),
    count=st.integers(1, 5),
    n=st.integers(1, 3),
)
async def test_stream_and_whole_agree(client, engine, reply, stop, count, n) -> None:
    """Any tokens at all; for chat and completions, text and finish reasons are the same."""
    engine.reply, engine.tokens_per_output = reply, count
    shared = {"model": "fake", "stop": stop, "n": n, "max_tokens": 24}
    for path, prompt in (
        ("/v1/chat/completions", {"messages": [USER]}),
        ("/v1/completions", {"prompt": "Hi"}),
    ):
        whole = (await client.post(path, json=shared | prompt)).json()
        events = (await client.post(path, json=shared | prompt | {"stream": True})).text
        texts, reasons = [""] * n, [None] * n
        for event in events.split("\n\n")[:-2]:
            for choice in json.loads(event.removeprefix("data: "))["choices"]:
                delta = choice.get("delta", {}).get("content") or choice.get("text") or ""
                texts[choice["index"]] += delta
                reasons[choice["index"]] = choice["finish_reason"]
        for index, choice in enumerate(whole["choices"]):
            text = choice["message"]["content"] if "message" in choice else choice["text"]
            assert (text, choice["finish_reason"]) == (texts[index], reasons[index])
            assert not any(one in text for one in stop)


async def test_bodies_and_events_have_the_documented_shape(client: httpx.AsyncClient) -> None:
    body = {"model": "fake", "prompt": "Hi", "max_tokens": 2}
    whole = (await client.post("/v1/completions", json=body)).json()
    assert (
        answer.Completion.model_validate(whole, extra="forbid").model_dump(exclude_unset=True)
        == whole
    )
    body = {"model": "fake", "messages": [USER], "max_tokens": 2}
    whole = (await client.post("/v1/chat/completions", json=body)).json()
    assert (
        answer.ChatCompletion.model_validate(whole, extra="forbid").model_dump(exclude_unset=True)
        == whole
    )
    reply = await client.post("/v1/chat/completions", json=body | {"stream": True})
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert "content-length" not in reply.headers
    events = reply.text.split("\n\n")
    assert all(event.startswith("data: ") for event in events[:-1])
    assert events[-2:] == ["data: [DONE]", ""]
    assert "usage" not in reply.text
    options = {"stream": True, "stream_options": {"include_usage": True}}
    reply = await client.post("/v1/chat/completions", json=body | options)
    *chunks, usage = [json.loads(event[6:]) for event in reply.text.split("\n\n")[:-2]]
    assert all(chunk["usage"] is None for chunk in chunks)
    assert answer.Usage.model_validate(usage["usage"]).completion_tokens == 2


async def test_the_token_that_ends_is_no_text(client: httpx.AsyncClient, engine) -> None:
    """Also where a model ends with a token that its tokenizer does not call special."""
    engine.info = replace(engine.info, eos_token_ids=(259,))
    engine.reply = [*b"done", 259]
    for ignore_eos, text in ((False, "done"), (True, "done<tool call>d")):
        body = {"model": "fake", "prompt": "Hi", "max_tokens": 6, "ignore_eos": ignore_eos}
        choice = (await client.post("/v1/completions", json=body)).json()["choices"][0]
        assert choice["text"] == text


def test_engine_that_dies_on_the_way(url: str, official: openai.OpenAI, engine) -> None:
    """A whole answer becomes a 503 with the cause, a stream an error event and [DONE]."""
    engine.dies_at = 3
    with pytest.raises(openai.InternalServerError) as caught:
        official.completions.create(model="fake", prompt="Hi", n=2)
    assert caught.value.status_code == 503
    assert caught.value.code == "engine_dead"
    assert "signal 9" in caught.value.message
    assert int(caught.value.response.headers["retry-after"]) > 0
    for n in (1, 2):
        engine.cause = None
        body = {"model": "fake", "prompt": "Hi", "stream": True, "n": n}
        events = httpx.post(f"{url}/v1/completions", json=body).text.split("\n\n")
        assert events[-2:] == ["data: [DONE]", ""]
        error = json.loads(events[-3].removeprefix("data: "))["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["code"] == "engine_dead"
    engine.cause = None
    with pytest.raises(openai.APIError, match="signal 9"):
        list(official.completions.create(model="fake", prompt="Hi", stream=True))


def test_engine_that_refuses(official: openai.OpenAI, engine) -> None:
    """What our own checks let through and the engine does not take is still the client's 400."""
    engine.refusal = "the KV cache holds 32 tokens, the prompt has 40"
    for stream in (False, True):
        with pytest.raises(openai.APIError, match="the KV cache holds 32 tokens") as caught:
            list(official.completions.create(model="fake", prompt="Hi", stream=stream))
        assert caught.value.code == "invalid_value"
        assert caught.value.type == "invalid_request_error"


def test_bug_in_mid_stream_is_an_error_event(
    url: str, engine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(engine), "_steps", lambda *_: iter([(["no token"], None)]))
    body = {"model": "fake", "prompt": "Hi", "stream": True}
    events = httpx.post(f"{url}/v1/completions", json=body).text.split("\n\n")
    error = json.loads(events[0].removeprefix("data: "))["error"]
    assert (error["type"], error["code"]) == ("server_error", "internal_error")
    assert events[1] == "data: [DONE]"
    assert "failed in mid-stream" in caplog.text
    assert len(engine.aborted) == 1


def test_official_client_raises_its_own_errors(official: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        official.chat.completions.create(model="gpt-9", messages=[USER])
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as wrong:
        official.chat.completions.create(model="fake", messages=[USER], temperature=9)
    assert wrong.value.param == "temperature"
    assert official.models.retrieve("fake").id == "fake"
    assert [model.id for model in official.models.list()] == ["fake"]
