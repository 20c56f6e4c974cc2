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
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError, PydanticKnownError

from qoq.server.fields import (
    MAX_INT32,
    MAX_LISTED,
    Bool,
    Float,
    Int,
    LogitBias,
    Only,
    Prompt,
    ShortText,
    Stop,
    Text,
    TokenId,
    TokenIds,
    union,
)
from qoq.server.structured.wire import StructuredBody
from qoq.server.tools.wire import ToolCall, ToolsBody

MAX_N = 128
MAX_LOGPROBS = 20


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class StreamOptions(Body):
    include_usage: Bool | None = None
    continuous_usage_stats: Bool | None = None
    include_obfuscation: Annotated[Any, Only(False)] = None


class GenerationBody(Body, StructuredBody):
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
    logit_bias: LogitBias | None = None
    min_tokens: Annotated[Int, Field(ge=0, le=MAX_INT32)] | None = None
    stop_token_ids: (
        Annotated[list[TokenId], Field(max_length=MAX_LISTED, fail_fast=True)] | None
    ) = None
    include_stop_str_in_output: Bool | None = None
    allowed_token_ids: TokenIds | None = None
    bad_words: Annotated[list[ShortText], Field(max_length=MAX_LISTED)] | None = None
    prompt_logprobs: Annotated[Int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    truncate_prompt_tokens: Annotated[Int, Field(ge=-1, le=MAX_INT32)] | None = None
    return_token_ids: Bool | None = None
    priority: Annotated[Int, Field(ge=-MAX_INT32, le=MAX_INT32)] | None = None
    timeout: Annotated[Float, Field(gt=0, le=MAX_INT32)] | None = None
    cache_salt: ShortText | None = None

    # Taken and not used: they change no token.
    user: Text | None = None
    metadata: dict[str, Any] | None = None
    service_tier: Text | None = None
    safety_identifier: Text | None = None
    prompt_cache_key: Text | None = None
    prompt_cache_retention: Text | None = None

    store: Annotated[Any, Only(False)] = None

    @field_validator("stream_options")
    @classmethod
    def _needs_stream(
        cls, options: StreamOptions | None, info: ValidationInfo
    ) -> StreamOptions | None:
        if options is not None and not info.data.get("stream"):
            raise PydanticCustomError("invalid_value", "it is allowed only when stream is true")
        return options

    @field_validator("prompt_logprobs")
    @classmethod
    def _needs_no_stream(cls, count: int | None, info: ValidationInfo) -> int | None:
        if count is not None and info.data.get("stream"):
            raise PydanticCustomError("invalid_value", "it is not allowed when stream is true")
        return count

    @field_validator("truncate_prompt_tokens")
    @classmethod
    def _leaves_a_token(cls, count: int | None) -> int | None:
        if count == 0:
            raise PydanticCustomError("invalid_value", "0 would leave no prompt; -1 fits it in")
        return count


class CompletionRequest(GenerationBody):
    prompt: Prompt
    max_tokens: Annotated[Int, Field(ge=0, le=MAX_INT32)] | None = None
    logprobs: Annotated[Int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    echo: Bool | None = None
    best_of: Annotated[Int, Field(ge=1, le=MAX_N)] | None = None
    suffix: Annotated[Any, Only("")] = None


class EmbeddingRequest(Body):
    """``pooling`` is ours: how the hidden states of a text become one vector."""

    model: Text
    input: Prompt
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[Int, Field(ge=1, le=MAX_INT32)] | None = None
    pooling: Literal["mean", "last"] | None = None
    user: Text | None = None


def texts_of(prompt: Prompt) -> list[str]:
    """Every prompt, where they are texts."""
    return [prompt] if isinstance(prompt, str) else cast(list[str], prompt)


def token_lists_of(prompt: Any) -> list[list[int]] | None:
    """Every prompt, where they are token ids; else None."""
    if isinstance(prompt, str) or not prompt or isinstance(prompt[0], str):
        return None
    return [prompt] if isinstance(prompt[0], int) else prompt


class TextPart(Body):
    type: Literal["text"]
    text: Text


_ABSENT: Any = object()


class ChatMessage(Body):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    tool_calls: list[ToolCall] | None = None
    tool_call_id: Text | None = None
    reasoning_content: Text | None = None
    content: (
        Annotated[
            Annotated[Text, Tag("<text>")]
            | Annotated[list[TextPart], Field(min_length=1), Tag("<parts>")]
            | Annotated[list[TextPart], Field(min_length=1), Tag("<tokens>")]
            | Annotated[list[TextPart], Tag("<texts>")],
            union("a string or a list of text parts"),
        ]
        | None
    ) = Field(default_factory=lambda: _ABSENT, validate_default=True)
    name: Text | None = None
    # An answer of ours, sent back as history, carries these.
    refusal: Annotated[Any, Only()] = None
    annotations: Annotated[Any, Only([])] = None
    audio: Annotated[Any, Only()] = None
    function_call: Annotated[Any, Only()] = None
    # And these, which OpenAI's own client and LiteLLM add to it.
    parsed: Any = None
    provider_specific_fields: Any = None

    @field_validator("content", mode="wrap")
    @classmethod
    def _needs_content(
        cls, content: object, check: ValidatorFunctionWrapHandler, info: ValidationInfo
    ) -> object:
        """Only a message with calls may go without."""
        if content is not None and content is not _ABSENT:
            return check(content)
        if info.data.get("role") == "assistant" and info.data.get("tool_calls"):
            return None
        if content is _ABSENT:
            raise PydanticKnownError("missing")
        raise PydanticCustomError("invalid_type", "expected a string or a list of text parts")


class ChatCompletionRequest(GenerationBody, ToolsBody):
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[Int, Field(ge=1, le=MAX_INT32)] | None = None
    logprobs: Bool | None = None
    top_logprobs: Annotated[Int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    functions: Annotated[Any, Only([])] = None
    function_call: Annotated[Any, Only("none", "auto")] = None
    modalities: Annotated[Any, Only(["text"])] = None
    audio: Annotated[Any, Only()] = None
    prediction: Annotated[Any, Only()] = None
    reasoning_effort: Annotated[Any, Only()] = None
    verbosity: Annotated[Any, Only()] = None
    web_search_options: Annotated[Any, Only()] = None

    @field_validator("top_logprobs")
    @classmethod
    def _needs_logprobs(cls, count: int | None, info: ValidationInfo) -> int | None:
        if count and not info.data.get("logprobs"):
            raise PydanticCustomError("invalid_value", "it is allowed only when logprobs is true")
        return count


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
