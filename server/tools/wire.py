"""The fields of a chat body that are about tools, and the messages that carry calls."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from qoq.server.fields import Bool, Text
from qoq.server.structured.wire import StructuredBody

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
_MAX_TOOLS = 128

FunctionName = Annotated[Text, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]


class Function(BaseModel):
    model_config = _STRICT

    name: FunctionName
    description: Text | None = None
    parameters: dict[str, Any] | None = None
    strict: Bool | None = None


class FunctionTool(BaseModel):
    model_config = _STRICT

    type: Literal["function"]
    function: Function


class NamedFunction(BaseModel):
    model_config = _STRICT

    name: FunctionName


class NamedToolChoice(BaseModel):
    model_config = _STRICT

    type: Literal["function"]
    function: NamedFunction


class CalledFunction(BaseModel):
    """OpenAI's own client sends back what it parsed from ``arguments``; no template sees that."""

    model_config = _STRICT

    name: Text
    arguments: Text
    parsed_arguments: Any = Field(default=None, exclude=True)


class ToolCall(BaseModel):
    """A call of an earlier answer. Some clients send the ``index`` of the stream back."""

    model_config = _STRICT

    id: Text
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = Field(default=None, exclude=True)


def _kind_of(value: object) -> str:
    return "<name>" if isinstance(value, dict | NamedToolChoice) else "<mode>"


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("<mode>")]
    | Annotated[NamedToolChoice, Tag("<name>")],
    Discriminator(_kind_of),
]
Tools = Annotated[list[FunctionTool], Field(max_length=_MAX_TOOLS)]


class ToolsBody(StructuredBody):
    """A body that may give the model tools, and say whether it shall call them."""

    tools: Tools | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: Bool | None = None
