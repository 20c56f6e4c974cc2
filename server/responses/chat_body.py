"""A request for a response -> the chat request that answers it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from qoq.server.errors import ApiError
from qoq.server.protocol import ChatCompletionRequest
from qoq.server.responses.wire import (
    FlatToolChoice,
    FunctionCallItem,
    FunctionOutputItem,
    Item,
    MessageItem,
    ReasoningItem,
    ResponseRequest,
    TextPart,
)

Json = dict[str, Any]


def items_of(body: ResponseRequest) -> list[Item]:
    if isinstance(body.input, str):
        return [MessageItem(role="user", content=body.input)]
    return body.input


def chat_body(body: ResponseRequest, items: Sequence[Item]) -> ChatCompletionRequest:
    """``items`` are the whole conversation, this request's input last. Raises ApiError (400)."""
    messages = _messages(items)
    if body.instructions is not None:
        messages.insert(0, {"role": "system", "content": body.instructions})
    fields = {
        "model": body.model,
        "messages": messages,
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_completion_tokens": body.max_output_tokens,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "seed": body.seed,
        "response_format": _response_format(body),
        "tools": [
            {"type": "function", "function": tool.model_dump(exclude={"type"}, exclude_unset=True)}
            for tool in body.tools or []
        ],
        "tool_choice": _tool_choice(body),
        "parallel_tool_calls": body.parallel_tool_calls,
    }
    try:
        return ChatCompletionRequest.model_validate(fields)
    except ValidationError as error:
        message = f"Invalid 'input': {error.errors()[0]['msg']}."
        raise ApiError(message, param="input", code="invalid_value") from error


def _messages(items: Sequence[Item]) -> list[Json]:
    """Reasoning, text and calls that follow each other are one message of the assistant."""
    messages: list[Json] = []
    for item in items:
        match item:
            case MessageItem(role="assistant"):
                message = _assistant(messages, "content", "tool_calls")
                message["content"] = _text(item.content)
            case MessageItem():
                messages.append({"role": item.role, "content": _text(item.content)})
            case FunctionCallItem():
                function = {"name": item.name, "arguments": item.arguments}
                calls = _assistant(messages).setdefault("tool_calls", [])
                calls.append({"id": item.call_id, "function": function})
            case FunctionOutputItem():
                output = {"tool_call_id": item.call_id, "content": _text(item.output)}
                messages.append({"role": "tool", **output})
            case ReasoningItem(content=content):
                message = _assistant(messages, "reasoning_content", "content", "tool_calls")
                message["reasoning_content"] = "\n".join(part.text for part in content or [])
    return [message for message in messages if message.keys() - {"role", "reasoning_content"}]


def _assistant(messages: list[Json], *ends: str) -> Json:
    """The message that goes on, or a new one where it has one of the fields ``ends``."""
    last = messages[-1] if messages else {}
    if last.get("role") != "assistant" or any(name in last for name in ends):
        messages.append({"role": "assistant"})
    return messages[-1]


def _text(content: str | list[TextPart]) -> str:
    return content if isinstance(content, str) else "\n".join(part.text for part in content)


def _response_format(body: ResponseRequest) -> Json | None:
    wanted = None if body.text is None else body.text.format
    if wanted is None:
        return None
    try:
        schema = wanted.json_schema
    except ValidationError as error:
        field = ".".join(map(str, error.errors()[0]["loc"]))
        message = f"Invalid 'text.format.{field}': {error.errors()[0]['msg']}."
        raise ApiError(message, param=f"text.format.{field}", code="invalid_value") from error
    return {"type": wanted.type} | ({"json_schema": schema} if schema is not None else {})


def _tool_choice(body: ResponseRequest) -> str | Json | None:
    if isinstance(body.tool_choice, FlatToolChoice):
        return {"type": "function", "function": {"name": body.tool_choice.name}}
    return body.tool_choice
