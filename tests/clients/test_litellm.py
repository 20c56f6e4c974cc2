"""LiteLLM, which many agents call through: both of its routes to a server like this one."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import Host, with_litellm
from .test_openai import CALLED, FORECAST, Forecast

pytestmark = with_litellm

MESSAGES = [{"role": "user", "content": "Hi"}]
LOOK = {
    "type": "function",
    "function": {
        "name": "Look",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


@pytest.fixture(params=["openai", "hosted_vllm"])
def to(request: pytest.FixtureRequest, host: Host) -> dict[str, Any]:
    """Whom to call."""
    model = f"{request.param}/fake"
    return {"model": model, "api_base": host.base_url, "api_key": "none"}


def test_chat(litellm: Any, to: dict[str, Any], host: Host) -> None:
    host.engine.say("<think>Hm.</think>Grüezi 🙂")
    whole = litellm.completion(**to, messages=MESSAGES)
    assert whole.choices[0].message.content == "Grüezi 🙂"
    assert whole.choices[0].message.reasoning_content == "Hm."
    assert whole.usage.completion_tokens == len(host.engine.reply)


def test_stream(litellm: Any, to: dict[str, Any], host: Host) -> None:
    host.engine.say("<think>Hm.</think>Grüezi 🙂")
    chunks = list(litellm.completion(**to, messages=MESSAGES, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Grüezi 🙂"
    whole = litellm.stream_chunk_builder(chunks)
    assert whole.choices[0].message.reasoning_content == "Hm."
    assert whole.choices[0].finish_reason == "stop"


async def test_async_stream(litellm: Any, to: dict[str, Any], host: Host) -> None:
    host.engine.say("Grüezi")
    stream = await litellm.acompletion(**to, messages=MESSAGES, stream=True)
    assert "".join([c.choices[0].delta.content or "" async for c in stream]) == "Grüezi"


def test_an_answer_in_a_form(litellm: Any, to: dict[str, Any], host: Host) -> None:
    host.engine.say(FORECAST)
    whole = litellm.completion(**to, messages=MESSAGES, response_format=Forecast)
    assert Forecast.model_validate_json(whole.choices[0].message.content).city == "Bern"
    assert '"city"' in host.engine.requests[-1].sampling.grammar


def test_tools_are_called_and_answered(litellm: Any, to: dict[str, Any], host: Host) -> None:
    host.engine.say(f"Well.{CALLED}")
    whole = litellm.completion(**to, messages=MESSAGES, tools=[LOOK], tool_choice="auto")
    (choice,) = whole.choices
    (call,) = choice.message.tool_calls
    assert choice.finish_reason == "tool_calls"
    assert (call.function.name, call.function.arguments) == ("Look", '{"city": "Genève"}')
    result = {"role": "tool", "tool_call_id": call.id, "content": "wet"}
    host.engine.say("Rain.")
    litellm.completion(**to, messages=[*MESSAGES, choice.message, result], tools=[LOOK])
    assert "assistant:Well.<tool_call>;tool:wet;" in host.prompt()


def test_plain_completion_and_embedding(litellm: Any, host: Host) -> None:
    to = {"api_base": host.base_url, "api_key": "none"}
    host.engine.say("Grüezi")
    whole = litellm.text_completion(model="text-completion-openai/fake", prompt="Hi", **to)
    assert whole.choices[0].text == "Grüezi"
    vectors = litellm.embedding(model="openai/fake", input=["Hi"], **to)
    assert vectors.data[0]["embedding"] == pytest.approx(
        host.engine.embedding(list(b"Hi")), abs=2**-24
    )


def test_the_responses_api(litellm: Any, host: Host) -> None:
    to = {"model": "openai/fake", "api_base": host.base_url, "api_key": "none"}
    host.engine.say("Grüezi")
    assert litellm.responses(input="Hi", **to).output[0].content[0].text == "Grüezi"
    kinds = [event.type for event in litellm.responses(input="Hi", stream=True, **to)]
    assert kinds[-1] == "response.completed"


def test_each_mistake_has_its_exception(litellm: Any, to: dict[str, Any]) -> None:
    with pytest.raises(litellm.ContextWindowExceededError):
        litellm.completion(**to, messages=[{"role": "user", "content": "x" * 5000}])
    with pytest.raises(litellm.BadRequestError):
        litellm.completion(**to, messages=MESSAGES, temperature=9)
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(**to | {"model": to["model"] + "9"}, messages=MESSAGES)


def test_a_server_that_is_not_ready_is_tried_again(
    litellm: Any, to: dict[str, Any], host: Host
) -> None:
    host.num_refused = 1
    whole = litellm.completion(**to, messages=MESSAGES, num_retries=2)
    assert whole.choices[0].message.content
    assert len(host.calls) == 2
