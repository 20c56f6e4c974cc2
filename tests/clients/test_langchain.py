"""LangChain's client: answers, streams, forms, tools, embeddings and errors."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest

from .conftest import Host
from .test_openai import CALLED, FORECAST, Forecast, Look

langchain_openai = pytest.importorskip(
    "langchain_openai", reason="needs langchain-openai: pip install 'qoq[clients]'"
)


@pytest.fixture
async def to(host: Host) -> AsyncIterator[dict[str, Any]]:
    """Whom to call. Its own clients are never closed, so it gets some that are."""
    async with httpx.AsyncClient() as later:
        with httpx.Client() as now:
            clients = {"http_client": now, "http_async_client": later}
            yield {"model": "fake", "base_url": host.base_url, "api_key": "none"} | clients


@pytest.fixture
def chat(to: dict[str, Any]) -> Any:
    return langchain_openai.ChatOpenAI(**to, max_retries=0, stream_usage=True)


def test_invoke(chat: Any, host: Host) -> None:
    host.engine.say("Grüezi 🙂")
    message = chat.invoke([("system", "Be brief."), ("human", "Hi")])
    assert message.content == "Grüezi 🙂"
    assert message.usage_metadata["output_tokens"] == len(host.engine.reply)
    assert host.prompt() == "system:Be brief.;user:Hi;"


async def test_stream(chat: Any, host: Host) -> None:
    host.engine.say("Grüezi 🙂")
    parts = list(chat.stream("Hi"))
    assert "".join(part.content for part in parts) == "Grüezi 🙂"
    assert sum(part.usage_metadata["output_tokens"] for part in parts if part.usage_metadata) > 0
    assert "".join([part.content async for part in chat.astream("Hi")]) == "Grüezi 🙂"


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
def test_an_answer_in_a_form(chat: Any, host: Host, method: str) -> None:
    call = f'<tool_call>\n{{"name": "Forecast", "arguments": {FORECAST}}}\n</tool_call>'
    host.engine.say(call if method == "function_calling" else FORECAST)
    wanted = Forecast(city="Bern", days=[1, 2], sky=None)
    assert chat.with_structured_output(Forecast, method=method).invoke("Hi") == wanted
    assert host.engine.requests[-1].sampling.grammar


def test_tools_are_called_and_answered(chat: Any, host: Host) -> None:
    host.engine.say(f"Well.{CALLED}{CALLED}")
    able = chat.bind_tools([Look])
    message = able.invoke("Hi")
    assert [call["args"] for call in message.tool_calls] == [{"city": "Genève"}] * 2
    whole = None
    for part in able.stream("Hi"):
        whole = part if whole is None else whole + part
    calls = whole.tool_calls
    assert [call["args"] for call in calls] == [{"city": "Genève"}] * 2
    results = [{"role": "tool", "tool_call_id": call["id"], "content": "wet"} for call in calls]
    host.engine.say("Rain.")
    assert able.invoke([("human", "Hi"), whole, *results]).content == "Rain."
    assert host.prompt().count("<tool_call>") == 2 and "tool:wet;tool:wet;" in host.prompt()


def test_the_responses_api(to: dict[str, Any], host: Host) -> None:
    chat = langchain_openai.ChatOpenAI(**to, use_responses_api=True)
    host.engine.say(f"<think>Hm.</think>Well.{CALLED}")
    able = chat.bind_tools([Look])
    message = able.invoke("Hi")
    assert message.text == "Well." and message.tool_calls[0]["args"] == {"city": "Genève"}
    assert "".join(part.text for part in able.stream("Hi")) == "Well."
    result = {"role": "tool", "tool_call_id": message.tool_calls[0]["id"], "content": "wet"}
    host.engine.say("Rain.")
    assert able.invoke([("human", "Hi"), message, result]).text == "Rain."
    assert "tool:wet;" in host.prompt()


def test_logprobs(chat: Any) -> None:
    message = chat.bind(logprobs=True, top_logprobs=2).invoke("Hi")
    assert len(message.response_metadata["logprobs"]["content"][0]["top_logprobs"]) == 2


def test_embeddings(to: dict[str, Any], host: Host) -> None:
    embeddings = langchain_openai.OpenAIEmbeddings(**to, check_embedding_ctx_length=False)
    (vector,) = embeddings.embed_documents(["Hi"])
    assert vector == pytest.approx(host.engine.embedding(list(b"Hi")), abs=2**-24)


def test_each_mistake_has_its_exception(chat: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="temperature"):
        chat.bind(temperature=9).invoke("Hi")
    with pytest.raises(openai.BadRequestError, match="context"):
        chat.invoke("x" * 5000)


def test_a_server_that_is_not_ready_is_tried_again(to: dict[str, Any], host: Host) -> None:
    host.num_refused = 1
    assert langchain_openai.ChatOpenAI(**to, max_retries=2).invoke("Hi").content
    assert len(host.calls) == 2
