"""Messages -> prompt text, by the model's own chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any, NoReturn

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from qoq.server.errors import ApiError
from qoq.server.protocol import ChatMessage
from qoq.server.tokenizer import Tokenizer, TokenizerError
from qoq.server.tools.wire import FunctionTool

# What a template may raise when messages do not fit it, besides its own raise_exception.
_TEMPLATE_FAILURES = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)


_PASSED_ON = {"name", "tool_calls", "tool_call_id", "reasoning_content"}


class ChatTemplate:
    """Compiled once. Its output holds every special token, so encode it without adding any."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Raises TokenizerError where the template is not valid Jinja."""
        self._named_tokens = tokenizer.named_tokens
        self._template: jinja2.Template | None = None
        if tokenizer.chat_template is not None:
            self._template = _compile(tokenizer.chat_template)

    def render(
        self,
        messages: Sequence[ChatMessage],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[FunctionTool] = (),
        extras: Mapping[str, Any] = MappingProxyType({}),
    ) -> str:
        """``extras`` are variables of the template itself, like Qwen3's ``enable_thinking``.

        Raises ApiError (400) where there is no template or the messages do not fit it.
        """
        if self._template is None:
            raise ApiError(
                "This model has no chat template; use /v1/completions.",
                param="messages",
                code="no_chat_template",
            )
        try:
            return self._template.render(
                {
                    **extras,
                    **self._named_tokens,
                    "messages": [_as_template_input(message) for message in messages],
                    "tools": [tool.model_dump(exclude_unset=True) for tool in tools] or None,
                    "add_generation_prompt": add_generation_prompt,
                }
            )
        except _TEMPLATE_FAILURES as error:
            raise ApiError(
                f"The model's chat template refuses these messages: {error}",
                param="messages",
                code="invalid_value",
            ) from error


def _compile(source: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda layout: datetime.now().strftime(layout)
    try:
        return environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise TokenizerError(
            f"the chat template is not valid Jinja: line {error.lineno}: {error.message}"
        ) from error


def _as_template_input(message: ChatMessage) -> dict[str, Any]:
    """Templates know no ``developer`` role and, most of them, no list of parts."""
    content = message.content or ""
    if not isinstance(content, str):
        content = "\n".join(part.text for part in content)
    role = "system" if message.role == "developer" else message.role
    dumped = message.model_dump(include=_PASSED_ON)
    fields = {key: value for key, value in dumped.items() if value}
    for call in fields.get("tool_calls", ()):
        call["function"]["arguments"] = _parsed(call["function"]["arguments"])
    return {"role": role, "content": content, **fields}


def _parsed(arguments: str) -> Any:
    """Templates expect an object; what is none stays the text that it is."""
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments


def _to_json(value: object, indent: int | None = None, **options: Any) -> str:
    """Unlike Jinja's own, not made safe for HTML: a model reads it."""
    return json.dumps(value, indent=indent, **({"ensure_ascii": False} | options))


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
