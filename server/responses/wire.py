"""The wire format of ``/v1/responses`` requests."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from qoq.server.fields import MAX_INT32, Bool, Float, Int, Only, Text
from qoq.server.structured.wire import JsonSchema
from qoq.server.tools.wire import Function, FunctionName

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


class _Body(BaseModel):
    model_config = _STRICT


class _Item(BaseModel):
    """Items of ours come back with fields that say nothing to the model, so all are taken."""

    model_config = ConfigDict(extra="ignore")


class TextPart(_Item):
    type: Literal["input_text", "output_text", "text"]
    text: Text


def _kind_of_text(value: object) -> str:
    return "<text>" if isinstance(value, str) else "<parts>"


Texts = Annotated[
    Annotated[Text, Tag("<text>")] | Annotated[list[TextPart], Field(min_length=1), Tag("<parts>")],
    Discriminator(_kind_of_text),
]


class MessageItem(_Item):
    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: Texts


class FunctionCallItem(_Item):
    type: Literal["function_call"]
    call_id: Text
    name: Text
    arguments: Text


class FunctionOutputItem(_Item):
    type: Literal["function_call_output"]
    call_id: Text
    output: Texts


class ReasoningText(_Item):
    type: Literal["reasoning_text"]
    text: Text


class ReasoningItem(_Item):
    type: Literal["reasoning"]
    content: list[ReasoningText] | None = None


_KINDS = ("message", "function_call", "function_call_output", "reasoning")


def _kind_of_item(value: object) -> str | None:
    kind = value.get("type", "message") if isinstance(value, dict) else getattr(value, "type", None)
    return f"<{kind}>" if kind in _KINDS else None


Item = Annotated[
    Annotated[MessageItem, Tag("<message>")]
    | Annotated[FunctionCallItem, Tag("<function_call>")]
    | Annotated[FunctionOutputItem, Tag("<function_call_output>")]
    | Annotated[ReasoningItem, Tag("<reasoning>")],
    Discriminator(
        _kind_of_item,
        custom_error_type="invalid_value",
        custom_error_message=f"expected an item of type {', '.join(_KINDS)}",
    ),
]


class FlatFunctionTool(Function):
    """A function tool as this API spells it, without ``function`` around it."""

    type: Literal["function"]


class FlatToolChoice(_Body):
    type: Literal["function"]
    name: FunctionName


class TextFormat(_Body):
    """``type`` json_schema has the fields of a JsonSchema beside it."""

    type: Literal["text", "json_object", "json_schema"]
    name: Text | None = None
    description: Text | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: Bool | None = None

    @property
    def json_schema(self) -> dict[str, Any] | None:
        """Raises pydantic's ValidationError where a name is missing or odd."""
        if self.type != "json_schema":
            return None
        fields = self.model_dump(by_alias=True, exclude={"type"}, exclude_none=True)
        return JsonSchema.model_validate(fields).model_dump(by_alias=True, exclude_none=True)


class TextConfig(_Body):
    format: TextFormat | None = None
    verbosity: Text | None = None


class ReasoningConfig(_Body):
    """Taken and not used: the model reasons as it was trained to."""

    effort: Text | None = None
    summary: Text | None = None
    generate_summary: Text | None = None


class ResponseRequest(_Body):
    model: Text
    input: Annotated[
        Annotated[Text, Tag("<text>")] | Annotated[list[Item], Field(min_length=1), Tag("<parts>")],
        Discriminator(_kind_of_text),
    ]
    instructions: Text | None = None
    previous_response_id: Text | None = None
    stream: Bool | None = None
    background: Bool | None = None
    store: Bool | None = None
    max_output_tokens: Annotated[Int, Field(ge=1, le=MAX_INT32)] | None = None
    temperature: Annotated[Float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Float, Field(gt=0, le=1)] | None = None
    seed: Annotated[Int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    text: TextConfig | None = None
    tools: Annotated[list[FlatFunctionTool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | FlatToolChoice | None = None
    parallel_tool_calls: Bool | None = None
    metadata: dict[str, Text] | None = None

    # Taken and not used: they change no token.
    user: Text | None = None
    reasoning: ReasoningConfig | None = None
    service_tier: Text | None = None
    safety_identifier: Text | None = None
    prompt_cache_key: Text | None = None
    prompt_cache_retention: Text | None = None

    include: Annotated[Any, Only([])] = None
    truncation: Annotated[Any, Only("disabled")] = None
    top_logprobs: Annotated[Any, Only(0)] = None
    max_tool_calls: Annotated[Any, Only()] = None
    conversation: Annotated[Any, Only()] = None
    prompt: Annotated[Any, Only()] = None
