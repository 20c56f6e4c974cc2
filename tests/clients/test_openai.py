"""The official Python client: its stream and parse helpers, tools, errors and retries."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import openai
import pytest
from pydantic import BaseModel, Field

from ..server.tools.test_chat_tools import CALL
from .conftest import MAX_REQUESTS, Host

USER: Any = {"role": "user", "content": "Hi"}
FORECAST = '{"city": "Bern", "days": [1, 2], "sky": null}'
CALLED = '<tool_call>\n{"name": "Look", "arguments": {"city": "Genève"}}\n</tool_call>'


Name = Annotated[str, Field(max_length=8)]


class Forecast(BaseModel, extra="forbid"):
    city: Name
    days: Annotated[list[Annotated[int, Field(ge=-99, le=99)]], Field(max_length=3)]
    sky: Literal["clear", "dull"] | None


class Look(BaseModel, extra="forbid"):
    """Looks out of a window."""

    city: Name


@pytest.fixture
def official(host: Host) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=host.base_url, api_key="none", max_retries=0) as client:
        yield client


def test_chat_stream_helper_adds_up(official: openai.OpenAI, host: Host) -> None:
    host.engine.say("<think>Hm.</think>Grüezi 🙂")
    with official.chat.completions.stream(model="fake", messages=[USER]) as stream:
        said = "".join(event.delta for event in stream if event.type == "content.delta")
        whole = stream.get_final_completion()
    assert said == whole.choices[0].message.content == "Grüezi 🙂"
    assert whole.choices[0].finish_reason == "stop"


def test_parse_gives_the_model_back(official: openai.OpenAI, host: Host) -> None:
    host.engine.say(FORECAST)
    whole = official.chat.completions.parse(model="fake", messages=[USER], response_format=Forecast)
    wanted = Forecast(city="Bern", days=[1, 2], sky=None)
    assert whole.choices[0].message.parsed == wanted
    with official.chat.completions.stream(
        model="fake", messages=[USER], response_format=Forecast
    ) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == wanted
    assert '"city"' in host.engine.requests[-1].sampling.grammar
    response = official.responses.parse(model="fake", input="Hi", text_format=Forecast)
    assert response.output_parsed == wanted


def test_what_is_cut_off_is_not_parsed(official: openai.OpenAI, host: Host) -> None:
    host.engine.say(FORECAST)
    with pytest.raises(openai.LengthFinishReasonError):
        official.chat.completions.parse(
            model="fake", messages=[USER], response_format=Forecast, max_completion_tokens=3
        )


def test_tools_are_called_and_answered(official: openai.OpenAI, host: Host) -> None:
    """The message with calls goes back as it came, with what the client added to it."""
    host.engine.say(f"Well.{CALLED}{CALLED}")
    tools = [openai.pydantic_function_tool(Look)]
    whole = official.chat.completions.parse(model="fake", messages=[USER], tools=tools)
    (choice,) = whole.choices
    assert choice.finish_reason == "tool_calls"
    calls = choice.message.tool_calls or []
    assert [call.function.parsed_arguments for call in calls] == [Look(city="Genève")] * 2
    host.engine.say("Rain.")
    results = [{"role": "tool", "tool_call_id": call.id, "content": "wet"} for call in calls]
    official.chat.completions.parse(
        model="fake", messages=[USER, choice.message, *results], tools=tools
    )
    assert host.prompt().count("<tool_call>") == 2 and "tool:wet;tool:wet;" in host.prompt()


def test_a_streamed_call_is_parsed(official: openai.OpenAI, host: Host) -> None:
    host.engine.say(f"<think>Hm.</think>{CALLED}")
    tools = [openai.pydantic_function_tool(Look)]
    with official.chat.completions.stream(model="fake", messages=[USER], tools=tools) as stream:
        events = list(stream)
        message = stream.get_final_completion().choices[0].message
    done = [event for event in events if event.type == "tool_calls.function.arguments.done"]
    assert [event.parsed_arguments for event in done] == [Look(city="Genève")]
    assert message.tool_calls[0].function.arguments == '{"city": "Genève"}'


def test_responses_stream_helper(official: openai.OpenAI, host: Host) -> None:
    host.engine.say(f"<think>Hm.</think>Well.{CALL}")
    tool: Any = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": False}
    with official.responses.stream(model="fake", input="Hi", tools=[tool]) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds[0] == "response.created" and kinds[-1] == "response.completed"
    assert [item.type for item in final.output] == ["reasoning", "message", "function_call"]
    assert final.output_text == "Well."
    assert official.responses.retrieve(final.id).output_text == "Well."
    host.engine.say("Fine.")
    output: Any = {"type": "function_call_output", "call_id": final.output[2].call_id}
    official.responses.create(
        model="fake",
        input=[USER, *(item.model_dump() for item in final.output), output | {"output": "x"}],
    )
    assert "assistant:Well.<tool_call>é;tool:x;" in host.prompt()
    official.responses.delete(final.id)
    with pytest.raises(openai.NotFoundError):
        official.responses.retrieve(final.id)


MISTAKES: list[tuple[dict[str, Any], type[openai.APIStatusError], str, str]] = [
    ({"model": "gpt-9"}, openai.NotFoundError, "model", "model_not_found"),
    ({"temperature": 9}, openai.BadRequestError, "temperature", "decimal_above_max_value"),
    ({"n": "2"}, openai.BadRequestError, "n", "invalid_type"),
    (
        {"messages": [{"role": "user", "content": "x" * 5000}]},
        openai.BadRequestError,
        "messages",
        "context_length_exceeded",
    ),
]


@pytest.mark.parametrize(("fields", "kind", "param", "code"), MISTAKES)
def test_each_mistake_has_its_exception(
    official: openai.OpenAI, fields: Any, kind: type[openai.APIStatusError], param: str, code: str
) -> None:
    with pytest.raises(kind) as caught:
        official.chat.completions.create(**{"model": "fake", "messages": [USER]} | fields)
    assert (caught.value.param, caught.value.code) == (param, code)
    assert caught.value.request_id


def test_an_error_in_mid_stream_is_raised(official: openai.OpenAI, host: Host) -> None:
    host.engine.dies_at = 3
    with (
        pytest.raises(openai.APIError, match="signal 9") as caught,
        official.chat.completions.stream(model="fake", messages=[USER]) as stream,
    ):
        stream.until_done()
    assert caught.value.code == "engine_dead"


def test_too_many_requests_are_a_rate_limit(official: openai.OpenAI, host: Host) -> None:
    host.engine.delay_s = 0.3
    create = official.completions.create
    busy = [create(model="fake", prompt="Hi", stream=True) for _ in range(MAX_REQUESTS)]
    with pytest.raises(openai.RateLimitError) as caught:
        create(model="fake", prompt="Hi")
    assert caught.value.code == "rate_limit_exceeded"
    for stream in busy:
        stream.close()


def test_a_server_that_is_not_ready_is_tried_again(official: openai.OpenAI, host: Host) -> None:
    host.num_refused = 2
    patient = official.with_options(max_retries=2)
    assert patient.completions.create(model="fake", prompt="Hi").choices[0].text
    assert len(host.calls) == 3


@pytest.mark.parametrize("fields", [{"temperature": 9}, {"model": "gpt-9"}, {"timeout": 0.05}])
def test_what_will_fail_again_is_not_tried_again(
    official: openai.OpenAI, host: Host, fields: dict[str, Any]
) -> None:
    """A client retries 408 and 500 by itself; the server's header keeps it from that."""
    host.engine.delay_s = 0.2
    body: Any = {"model": "fake", "prompt": "Hi"} | fields
    with pytest.raises(openai.APIStatusError):
        official.with_options(max_retries=2).post("/completions", body=body, cast_to=object)
    assert len(host.calls) == 1
