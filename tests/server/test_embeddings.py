"""Embeddings by the official client, which asks for base64 and unpacks it."""

import math

import httpx
import openai
import pytest

PATH = "/v1/embeddings"


def embed(**changes: object) -> dict[str, object]:
    return {"model": "fake", "input": "Hi"} | changes


def test_official_client(url: str, engine) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as official:
        reply = official.embeddings.create(model="fake", input=["Hi", "you there"])
        lists = official.embeddings.create(model="fake", input=[[1, 2], [3]])
    assert [data.index for data in reply.data] == [0, 1]
    exact = engine.embedding(list(b"you there"))
    assert reply.data[1].embedding == pytest.approx(exact, abs=2**-24)
    assert (reply.usage.prompt_tokens, reply.usage.total_tokens) == (11, 11)
    assert lists.data[1].embedding == pytest.approx(engine.embedding([3]), abs=2**-24)


async def test_floats(client: httpx.AsyncClient, engine) -> None:
    answer = (await client.post(PATH, json=embed())).json()
    assert answer["data"][0]["embedding"] == engine.embedding(list(b"Hi"))
    assert (answer["object"], answer["model"]) == ("list", "fake")


async def test_fewer_dimensions_are_of_length_1_again(client: httpx.AsyncClient, engine) -> None:
    answer = (await client.post(PATH, json=embed(dimensions=2))).json()
    short, whole = answer["data"][0]["embedding"], engine.embedding(list(b"Hi"))
    assert math.hypot(*short) == pytest.approx(1.0, abs=2**-50)
    assert short[0] / short[1] == pytest.approx(whole[0] / whole[1], rel=2**-50)


async def test_pooling_reaches_the_engine(client: httpx.AsyncClient, engine) -> None:
    for changes in ({}, {"pooling": "last"}):
        assert (await client.post(PATH, json=embed(**changes))).status_code == 200
    assert [request.sampling.pooling for request in engine.requests] == ["mean", "last"]
    assert {request.sampling.max_tokens for request in engine.requests} == {1}


@pytest.mark.parametrize(
    ("changes", "param", "code"),
    [
        ({"input": ""}, "input", "empty_array"),
        ({"input": "x" * 256}, "input", "context_length_exceeded"),
        ({"input": [260]}, "input", "invalid_value"),
        ({"input": ["x"] * 129}, "input", "array_above_max_length"),
        ({"dimensions": 4}, "dimensions", "integer_above_max_value"),
        ({"dimensions": 0}, "dimensions", "integer_below_min_value"),
        ({"encoding_format": "int8"}, "encoding_format", "invalid_value"),
        ({"pooling": "max"}, "pooling", "invalid_value"),
    ],
)
async def test_mistakes(client: httpx.AsyncClient, changes, param: str, code: str) -> None:
    answer = await client.post(PATH, json=embed(**changes))
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, param, code)


async def test_one_failure_ends_the_others(client: httpx.AsyncClient, engine, wait_until) -> None:
    engine.refusal = "the KV cache holds 32 tokens, the prompt has 40"
    answer = await client.post(PATH, json=embed(input=["a", "b"]))
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, engine.refusal)
    assert not engine.running
