"""The OpenAI wire format of requests, and nothing else.

Bodies are strict: no number in quotes, no unknown field, and what OpenAI defines but we do not
serve yet is refused unless it asks for nothing. ``null`` is the default everywhere.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from qoq.server.fields import (
    MAX_INT32,
    Bool,
    Float,
    Int,
    Only,
    Prompt,
    Stop,
    Text,
    TokenId,
    union,
)

MAX_N = 128


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class StreamOptions(Body):
    include_usage: Bool | None = None
    include_obfuscation: Annotated[Any, Only(False)] = None


class GenerationBody(Body):
    """What chat and plain completions share."""

    model: Text
    stream: Bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[Int, Field(ge=1, le=MAX_N)] | None = None
    max_tokens: Annotated[Int, Field(ge=1, le=MAX_INT32)] | None = None
    temperature: Annotated[Float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[Int, Field(ge=-1, le=MAX_INT32)] | None = None
    min_p: Annotated[Float, Field(ge=0, le=1)] | None = None
    seed: Annotated[Int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: Stop | None = None
    ignore_eos: Bool | None = None
    presence_penalty: Annotated[Float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[Float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[Float, Field(gt=0, le=10)] | None = None
    priority: Annotated[Int, Field(ge=-MAX_INT32, le=MAX_INT32)] | None = None

    # Taken and not used: they change no token.
    user: Text | None = None
    metadata: dict[str, Any] | None = None
    service_tier: Text | None = None
    safety_identifier: Text | None = None
    prompt_cache_key: Text | None = None
    prompt_cache_retention: Text | None = None

    store: Annotated[Any, Only(False)] = None
    logit_bias: Annotated[Any, Only({})] = None

    @field_validator("stream_options")
    @classmethod
    def _needs_stream(
        cls, options: StreamOptions | None, info: ValidationInfo
    ) -> StreamOptions | None:
        if options is not None and not info.data.get("stream"):
            raise PydanticCustomError("invalid_value", "it is allowed only when stream is true")
        return options


class CompletionRequest(GenerationBody):
    prompt: Prompt
    logprobs: Annotated[Any, Only()] = None
    echo: Annotated[Any, Only(False)] = None
    best_of: Annotated[Any, Only(1)] = None
    suffix: Annotated[Any, Only("")] = None

    @property
    def texts(self) -> list[str]:
        """Every prompt, where they are texts."""
        return [self.prompt] if isinstance(self.prompt, str) else cast(list[str], self.prompt)

    @property
    def token_lists(self) -> list[list[int]] | None:
        """Every prompt, where they are token ids; else None."""
        prompt: Any = self.prompt
        if isinstance(prompt, str) or not prompt or isinstance(prompt[0], str):
            return None
        return [prompt] if isinstance(prompt[0], int) else prompt


class TextPart(Body):
    type: Literal["text"]
    text: Text


class ChatMessage(Body):
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        Annotated[Text, Tag("<text>")]
        | Annotated[list[TextPart], Field(min_length=1), Tag("<parts>")]
        | Annotated[list[TextPart], Field(min_length=1), Tag("<tokens>")]
        | Annotated[list[TextPart], Tag("<texts>")],
        union("a string or a list of text parts"),
    ]
    name: Text | None = None
    # An answer of ours, sent back as history, carries these.
    refusal: Annotated[Any, Only()] = None
    annotations: Annotated[Any, Only([])] = None
    audio: Annotated[Any, Only()] = None
    function_call: Annotated[Any, Only()] = None
    tool_calls: Annotated[Any, Only([])] = None


class ChatCompletionRequest(GenerationBody):
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[Int, Field(ge=1, le=MAX_INT32)] | None = None
    parallel_tool_calls: Bool | None = None
    logprobs: Annotated[Any, Only(False)] = None
    top_logprobs: Annotated[Any, Only(0)] = None
    response_format: Annotated[Any, Only({"type": "text"})] = None
    tools: Annotated[Any, Only([])] = None
    tool_choice: Annotated[Any, Only("none", "auto")] = None
    functions: Annotated[Any, Only([])] = None
    function_call: Annotated[Any, Only("none", "auto")] = None
    modalities: Annotated[Any, Only(["text"])] = None
    audio: Annotated[Any, Only()] = None
    prediction: Annotated[Any, Only()] = None
    reasoning_effort: Annotated[Any, Only()] = None
    verbosity: Annotated[Any, Only()] = None
    web_search_options: Annotated[Any, Only()] = None


class TokenizeRequest(Body):
    model: Text | None = None
    prompt: Text | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1)] | None = None
    add_special_tokens: Bool | None = None
    add_generation_prompt: Bool | None = None

    @model_validator(mode="after")
    def _check_text(self) -> TokenizeRequest:
        if (self.prompt is None) == (self.messages is None):
            raise PydanticCustomError("invalid_value", "give either prompt or messages")
        return self


class DetokenizeRequest(Body):
    model: Text | None = None
    tokens: Annotated[list[TokenId], Field(fail_fast=True)]
