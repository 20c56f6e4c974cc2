"""Tools and reasoning in the chat endpoint: what the model is told, and what the client gets."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

HERMES = (
    "{% for tool in tools or [] %}[{{ tool.function.name }}]{% endfor %}"
    "{% for m in messages %}{{ m.role }}:{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function.arguments.x }}{% endfor %};"
    "{% endfor %}"
)
THINKING = HERMES + "{# </think> #}"
TOOL = {
    "type": "function",
    "function": {"name": "f", "parameters": {"type": "object", "properties": {"x": {}}}},
}
CALL = '<tool_call>\n{"name": "f", "arguments": {"x": "é"}}\n</tool_call>'
SAID = f"Well.\n{CALL}\n{CALL}"
Clients = Callable[[str], httpx.AsyncClient]


def body(**fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Hi"}]
    return {"model": "fake", "messages": messages, "tools": [TOOL], **fields}


async def post(client: httpx.AsyncClient, **fields: Any) -> httpx.Response:
    return await client.post("/v1/chat/completions", json=body(**fields))


async def choice_of(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    answer = await post(client, **fields)
    assert answer.status_code == 200, answer.text
    ChatCompletion.model_validate(answer.json(), strict=False)
    choice: dict[str, Any] = answer.json()["choices"][0]
    return choice


async def streamed(client: httpx.AsyncClient, **fields: Any) -> tuple[dict[str, Any], str]:
    """The message that the deltas add up to, as clients add them, and the finish reason."""
    answer = await post(client, stream=True, **fields)
    lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: {")]
    chunks = [ChatCompletionChunk.model_validate_json(line) for line in lines]
    message: dict[str, Any] = {"content": "", "calls": {}, "reasoning": ""}
    for chunk in chunks:
        delta = chunk.choices[0].delta
        message["content"] += delta.content or ""
        message["reasoning"] += getattr(delta, "reasoning_content", None) or ""
        for call in delta.tool_calls or []:
            known = message["calls"].setdefault(call.index, {"arguments": ""})
            if call.id:
                known |= {"id": call.id, "type": call.type, "name": call.function.name}
            known["arguments"] += call.function.arguments
    reasons = [chunk.choices[0].finish_reason for chunk in chunks]
    assert reasons[:-1] == [None] * (len(reasons) - 1)
    return message, reasons[-1]


async def test_calls_come_whole(client_with: Clients, engine: Any) -> None:
    engine.say(SAID)
    choice = await choice_of(client_with(HERMES))
    assert choice["finish_reason"] == "tool_calls"
    message = choice["message"]
    assert message["content"] == "Well."
    first, second = message["tool_calls"]
    assert first["id"] != second["id"] and first["id"].startswith("call_")
    for call in (first, second):
        assert call["type"] == "function"
        assert call["function"] == {"name": "f", "arguments": '{"x": "é"}'}


@pytest.mark.parametrize("tokens_per_output", [1, 3, 1000])
async def test_calls_are_streamed_in_pieces(
    client_with: Clients, engine: Any, tokens_per_output: int
) -> None:
    engine.say(SAID)
    engine.tokens_per_output = tokens_per_output
    message, reason = await streamed(client_with(HERMES))
    assert reason == "tool_calls" and message["content"] == "Well."
    assert list(message["calls"]) == [0, 1]
    for call in message["calls"].values():
        assert call["name"] == "f" and call["type"] == "function"
        assert call["arguments"] == '{"x": "é"}'


async def test_each_choice_has_calls_of_its_own(client_with: Clients, engine: Any) -> None:
    engine.say(CALL)
    answer = await post(client_with(HERMES), n=2)
    calls = [choice["message"]["tool_calls"] for choice in answer.json()["choices"]]
    assert [len(own) for own in calls] == [1, 1] and calls[0][0]["id"] != calls[1][0]["id"]


async def test_the_model_is_told_of_tools_and_of_earlier_calls(
    client_with: Clients, engine: Any
) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": 7}'}}
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "sunny"},
    ]
    await choice_of(client_with(HERMES), messages=messages)
    prompt = bytes(engine.requests[-1].prompt_token_ids).decode()
    assert prompt == "[f]user:Hi;assistant:<tool_call>7;tool:sunny;"


async def test_a_template_sees_no_more_of_a_call_than_there_is(
    client_with: Clients, engine: Any
) -> None:
    """Clients add to an earlier call its place and what they parsed; some templates dump it."""
    function = {"name": "f", "arguments": '{"x": 7}'}
    call = {"id": "1", "type": "function", "function": function | {"parsed_arguments": {"x": 7}}}
    added = {"parsed": {"x": 7}, "provider_specific_fields": {"refusal": None}}
    messages = [
        {"role": "assistant", "content": None, "tool_calls": [call | {"index": 0}], **added},
        {"role": "tool", "tool_call_id": "1", "content": "sunny"},
    ]
    dumping = "{{ messages[0].tool_calls | tojson }}{# <tool_call> tools #}"
    await choice_of(client_with(dumping), messages=messages)
    shown = json.loads(bytes(engine.requests[-1].prompt_token_ids))
    assert shown == [
        {"id": "1", "type": "function", "function": function | {"arguments": {"x": 7}}}
    ]


@pytest.mark.parametrize("fields", [{"tool_choice": "none"}, {"tools": []}, {"tools": None}])
async def test_without_tools_the_text_is_not_read(
    client_with: Clients, engine: Any, fields: dict[str, Any]
) -> None:
    engine.say(CALL)
    choice = await choice_of(client_with(HERMES), **fields)
    assert choice["message"]["content"] == CALL and choice["finish_reason"] == "stop"
    assert "[f]" not in bytes(engine.requests[-1].prompt_token_ids).decode()


async def test_a_named_tool_ends_with_stop_and_has_a_grammar(
    client_with: Clients, engine: Any
) -> None:
    engine.say(CALL)
    named = {"type": "function", "function": {"name": "f"}}
    choice = await choice_of(client_with(HERMES), tool_choice=named)
    assert choice["finish_reason"] == "stop" and choice["message"]["tool_calls"]
    assert "@tool0" in engine.requests[-1].sampling.grammar
    await choice_of(client_with(HERMES), tool_choice="auto")
    assert engine.requests[-1].sampling.grammar is None


async def test_reasoning_is_a_field_of_its_own(client_with: Clients, engine: Any) -> None:
    engine.say(f"<think>\nHm.\n</think>\n\n{CALL}")
    choice = await choice_of(client_with(THINKING))
    assert choice["message"]["reasoning_content"] == "Hm."
    assert choice["message"]["content"] is None and choice["message"]["tool_calls"]
    message, _ = await streamed(client_with(THINKING))
    assert message["reasoning"] == "Hm." and message["content"] == "" and message["calls"]


async def test_a_prompt_that_opens_the_reasoning_is_seen(client_with: Clients, engine: Any) -> None:
    engine.say("Hm.</think>Yes.")
    template = THINKING + "{% if thinks is not defined %}<think>\n{% endif %}"
    choice = await choice_of(client_with(template), tools=None)
    assert choice["message"]["reasoning_content"] == "Hm."
    assert choice["message"]["content"] == "Yes."
    off = await choice_of(client_with(template), tools=None, chat_template_kwargs={"thinks": 0})
    assert off["message"]["content"] == "Hm.</think>Yes."


NAMED_G = {"type": "function", "function": {"name": "g"}}
BAD_KEYS = {"type": "function", "function": {"name": "f", "parameters": {"properties": []}}}
BAD_SCHEMA = {"type": "function", "function": {"name": "f", "parameters": {"type": "thing"}}}
MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"tool_choice": "required", "tools": None}, "tool_choice"),
    ({"tool_choice": NAMED_G}, "tool_choice"),
    ({"tool_choice": "always"}, "tool_choice"),
    ({"tools": [TOOL, TOOL]}, "tools"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
    ({"tools": [BAD_SCHEMA], "tool_choice": "required"}, "tools"),
    ({"tools": [BAD_KEYS]}, "tools"),
    ({"messages": [{"role": "assistant", "content": None}]}, "messages[0].content"),
]


@pytest.mark.parametrize(("fields", "param"), MISTAKES)
async def test_mistake_is_named(client_with: Clients, fields: dict[str, Any], param: str) -> None:
    answer = await post(client_with(HERMES), **fields)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


async def test_tools_need_a_template_that_has_them(client: httpx.AsyncClient) -> None:
    answer = await post(client)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "tools"


async def test_arguments_that_are_no_json_reach_the_template_as_they_are(
    client_with: Clients, engine: Any
) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{x"}}
    messages = [{"role": "assistant", "tool_calls": [call]}, {"role": "user", "content": "Hi"}]
    template = "{# tools <tool_call> #}{{ messages[0].tool_calls[0].function.arguments|tojson }}"
    await choice_of(client_with(template), messages=messages)
    assert json.loads(bytes(engine.requests[-1].prompt_token_ids)) == "{x"


async def test_what_was_held_back_comes_with_the_end(client_with: Clients, engine: Any) -> None:
    """The end of the text could begin a marker, until nothing more can come."""
    engine.say("Maybe a <tool_ca")
    message, reason = await streamed(client_with(HERMES))
    assert (message["content"], reason) == ("Maybe a <tool_ca", "stop")
    assert (await choice_of(client_with(HERMES)))["message"]["content"] == message["content"]
