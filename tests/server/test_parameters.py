"""What the parameters beside sampling do to an answer, by the official client where it can ask."""

import time

import httpx
import openai
import pytest

from qoq.server.tokenizer import Tokenizer

USER = {"role": "user", "content": "Hi"}
COMPLETE, CHAT = "/v1/completions", "/v1/chat/completions"


@pytest.fixture
def official(url: str) -> openai.OpenAI:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


def complete(**changes: object) -> dict[str, object]:
    return {"model": "fake", "prompt": "Hi", "max_tokens": 5} | changes


async def test_rules_for_tokens_reach_the_engine(client: httpx.AsyncClient, engine) -> None:
    rules = {
        "logit_bias": {"5": -100, "97": 2.5},
        "allowed_token_ids": [97, 98, 97],
        "stop_token_ids": [99, 257],
        "min_tokens": 2,
        "bad_words": ["ab", " c"],
        "cache_salt": "tenant",
    }
    assert (await client.post(COMPLETE, json=complete(**rules))).status_code == 200
    (request,) = engine.requests
    sampling = request.sampling
    assert sampling.logit_bias == ((5, -100.0), (97, 2.5))
    assert sampling.allowed_token_ids == (97, 98)
    assert sampling.stop_token_ids == (257, 99)
    assert sampling.min_tokens == 2
    assert set(sampling.bad_token_ids) == {(97, 98), (32, 97, 98), (32, 99)}
    assert request.cache_salt == "tenant"
    assert sampling.logprobs is None and sampling.prompt_logprobs is None


def test_chat_logprobs(official: openai.OpenAI, engine) -> None:
    """As many as tokens with text, bytes where a token is half a character, no end token."""
    engine.say("é!")
    for stream in (False, True):
        reply = official.chat.completions.create(
            model="fake", messages=[USER], logprobs=True, top_logprobs=2, stream=stream
        )
        choices = [part.choices[0] for part in (reply if stream else [reply])]
        content = [entry for c in choices if c.logprobs for entry in c.logprobs.content]
        assert [entry.bytes for entry in content] == [[0xC3], [0xA9], [0x21]]
        assert [entry.token for entry in content] == ["bytes:\\xc3", "bytes:\\xa9", "!"]
        assert [len(entry.top_logprobs) for entry in content] == [2, 2, 2]
        assert content[2].logprob == engine.logprob(0x21)
        assert content[2].top_logprobs[1].bytes == [0x22]
    reply = official.chat.completions.create(model="fake", messages=[USER], logprobs=True)
    assert reply.choices[0].logprobs.content[0].top_logprobs == []


def test_completion_logprobs(official: openai.OpenAI, engine) -> None:
    """The token that ends counts, as with OpenAI, and has a name though it is no text."""
    engine.say("hé")
    logprobs = (
        official.completions.create(model="fake", prompt="Hi", logprobs=1).choices[0].logprobs
    )
    assert logprobs.tokens == ["h", "bytes:\\xc3", "bytes:\\xa9", "<|end|>"]
    assert logprobs.text_offset == [0, 1, 1, 2]
    assert logprobs.token_logprobs == [engine.logprob(t) for t in (*"hé".encode(), 257)]
    assert logprobs.top_logprobs[0] == {"h": engine.logprob(ord("h"))}


def test_logprobs_end_where_the_text_does(official: openai.OpenAI, engine) -> None:
    engine.reply = list(b"one STOP two")
    for stop, included, text in (("STOP", False, "one "), ("STOP", True, "one STOP")):
        choice = official.completions.create(
            model="fake",
            prompt="Hi",
            stop=stop,
            logprobs=0,
            extra_body={"include_stop_str_in_output": included},
        ).choices[0]
        assert choice.text == "".join(choice.logprobs.tokens) == text
        assert choice.logprobs.text_offset == list(range(len(text)))


def test_echo_shows_the_prompt_first(official: openai.OpenAI, engine) -> None:
    """The request that scores a prompt: lm_eval asks for ``max_tokens`` 1, OpenAI's own for 0."""
    engine.say("end")
    for prompt in ("né", list("né".encode())):
        choice = official.completions.create(model="fake", prompt=prompt, echo=True).choices[0]
        assert choice.text == "néend"
    for max_tokens, tokens in ((1, ["H", "i", "e"]), (0, ["H", "i"])):
        reply = official.completions.create(
            model="fake", prompt="Hi", echo=True, logprobs=1, max_tokens=max_tokens
        )
        choice = reply.choices[0]
        assert choice.text == "".join(tokens)
        assert choice.logprobs.tokens == tokens
        assert choice.logprobs.token_logprobs[0] is choice.logprobs.top_logprobs[0] is None
        assert choice.logprobs.token_logprobs[1] == engine.logprob(ord("i"))
        assert choice.logprobs.text_offset == list(range(len(tokens)))
        assert (choice.finish_reason, reply.usage.completion_tokens) == ("length", max_tokens)


async def test_echo_is_not_searched_for_stop_strings(client: httpx.AsyncClient, engine) -> None:
    engine.say("x Hi y")
    body = complete(echo=True, stop="Hi", max_tokens=9)
    assert (await client.post(COMPLETE, json=body)).json()["choices"][0]["text"] == "Hix "


async def test_prompt_logprobs(client: httpx.AsyncClient, engine) -> None:
    """By token id, the prompt's own token and the likeliest ones; nothing of the first."""
    answer = (await client.post(COMPLETE, json=complete(prompt_logprobs=1))).json()
    first, second = answer["choices"][0]["prompt_logprobs"]
    own = engine.logprob(ord("i"))
    assert first is None
    assert second == {"105": {"logprob": own, "rank": 1, "decoded_token": "i"}}
    body = {"model": "fake", "messages": [USER], "max_tokens": 1, "prompt_logprobs": 0}
    answer = (await client.post(CHAT, json=body)).json()
    assert len(answer["prompt_logprobs"]) == answer["usage"]["prompt_tokens"]


async def test_best_of_takes_the_likeliest(client: httpx.AsyncClient, engine) -> None:
    """By the mean, so that a long one does not lose for its length; indices begin at 0."""
    engine.say_by_seed({0: "zzz", 1: "aaaaaa", 2: "z", 3: "ab"})
    body = complete(best_of=4, n=2, seed=0, max_tokens=7, prompt=["Hi", "Ho"])
    answer = (await client.post(COMPLETE, json=body)).json()
    assert engine.logprob(ord("a")) > engine.logprob(ord("b")) > engine.logprob(ord("z"))
    assert [choice["text"] for choice in answer["choices"]] == ["aaaaaa", "ab"] * 2
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert all(choice["logprobs"] is None for choice in answer["choices"])
    assert answer["usage"]["completion_tokens"] == 2 * (4 + 7 + 2 + 3), "all were generated"


async def test_stop_strings_wait_for_min_tokens(client: httpx.AsyncClient, engine) -> None:
    engine.reply = list(b"ab ab ab")
    for min_tokens, text in ((0, ""), (1, "ab "), (2, "ab "), (5, "ab ab ")):
        body = complete(stop="ab", min_tokens=min_tokens, max_tokens=8)
        for engine.tokens_per_output in (1, 3, 8):
            choice = (await client.post(COMPLETE, json=body)).json()["choices"][0]
            assert (choice["text"], choice["finish_reason"]) == (text, "stop")


async def test_a_stop_token_is_shown_where_stops_are(client: httpx.AsyncClient, engine) -> None:
    engine.say("one two")
    for included, text in ((False, "one"), (True, "one ")):
        body = complete(stop_token_ids=[32], include_stop_str_in_output=included, max_tokens=9)
        choice = (await client.post(COMPLETE, json=body)).json()["choices"][0]
        assert (choice["text"], choice["finish_reason"]) == (text, "stop")


@pytest.mark.parametrize(("count", "kept"), [(3, "hij"), (99, "abcdefghij"), (-1, "abcdefghij")])
async def test_truncates_the_start_of_a_prompt(client, engine, count: int, kept: str) -> None:
    body = complete(prompt="abcdefghij", truncate_prompt_tokens=count)
    answer = (await client.post(COMPLETE, json=body)).json()
    assert bytes(engine.requests[0].prompt_token_ids) == kept.encode()
    assert answer["usage"]["prompt_tokens"] == len(kept)


async def test_truncation_leaves_room_for_the_answer(client, engine) -> None:
    body = complete(prompt="x" * 999, truncate_prompt_tokens=-1, max_tokens=50)
    assert (await client.post(COMPLETE, json=body)).status_code == 200
    assert len(engine.requests[0].prompt_token_ids) == 256 - 50


async def test_returns_token_ids(client: httpx.AsyncClient, engine) -> None:
    """All of them, the one that ended too, and no more than were shown before a stop string."""
    engine.say("one STOP")
    for stop, ids in ((None, [*b"one STOP", 257]), ("e", list(b"one"))):
        for engine.tokens_per_output in (1, 4):
            body = complete(return_token_ids=True, max_tokens=20, stop=stop)
            choice = (await client.post(COMPLETE, json=body)).json()["choices"][0]
            assert (choice["prompt_token_ids"], choice["token_ids"]) == ([72, 105], ids)
    body = {"model": "fake", "messages": [USER], "return_token_ids": True}
    answer = (await client.post(CHAT, json=body)).json()
    assert answer["prompt_token_ids"] == engine.requests[-1].prompt_token_ids
    assert answer["choices"][0]["token_ids"] == [*b"one STOP", 257]


async def test_usage_says_what_was_cached(client: httpx.AsyncClient, engine) -> None:
    """Once a prompt: that the other choices find the first one's blocks is no news."""
    engine.num_cached_tokens = 2
    answer = (await client.post(COMPLETE, json=complete(n=3, prompt=["Hi", "Ho"]))).json()
    assert answer["usage"]["prompt_tokens_details"] == {"cached_tokens": 4}
    assert answer["usage"]["prompt_tokens"] == 4


def test_usage_with_every_chunk(official: openai.OpenAI, engine) -> None:
    engine.say("abc")
    options = {"include_usage": True, "continuous_usage_stats": True}
    stream = official.completions.create(
        model="fake", prompt="Hi", stream=True, stream_options=options
    )
    assert [chunk.usage.completion_tokens for chunk in stream] == [1, 2, 3, 4, 4]


def test_timeout(official: openai.OpenAI, url: str, engine, wait_until) -> None:
    """Ends the work, and says that trying again is of no use."""
    engine.delay_s = 0.05
    started_s = time.monotonic()
    with pytest.raises(openai.APIStatusError) as caught:
        official.completions.create(
            model="fake", prompt="Hi", max_tokens=200, extra_body={"timeout": 0.2}
        )
    assert (caught.value.status_code, caught.value.code) == (408, "request_timeout")
    assert caught.value.response.headers["x-should-retry"] == "false"
    body = complete(max_tokens=200, timeout=0.2, stream=True)
    *_, error, done, _ = httpx.post(f"{url}{COMPLETE}", json=body).text.split("\n\n")
    assert "request_timeout" in error and done == "data: [DONE]"
    assert time.monotonic() - started_s < 3
    wait_until(lambda: not engine.running)
    assert len(engine.aborted) == 2


async def test_a_timeout_that_is_kept_changes_nothing(client: httpx.AsyncClient, engine) -> None:
    answer = await client.post(COMPLETE, json=complete(timeout=60))
    assert answer.json()["choices"][0]["text"] == "Hello"
    assert engine.aborted == []


def test_special_tokens_have_names(tokenizer: Tokenizer) -> None:
    assert tokenizer.all_pieces[257] == b"<|end|>"
    assert tokenizer.pieces[257] == b""
