"""Every answer fits the types that OpenAI publishes with its client, and adds only what we list.

The types are made from OpenAI's document of its API, and looser: null and absent are one to them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from openai.pagination import SyncPage
from openai.types import Completion, CompletionChoice, CreateEmbeddingResponse, ErrorObject, Model
from openai.types.chat import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionMessage,
    ChatCompletionTokenLogprob,
    chat_completion,
    chat_completion_chunk,
)
from openai.types.responses import FunctionTool, Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from ..server.tools.test_chat_tools import HERMES, THINKING
from .answers import Json, all_answers
from .conftest import Host


class ErrorBody(BaseModel):
    error: ErrorObject


TYPES: dict[str, Any] = {
    "CreateChatCompletionResponse": ChatCompletion,
    "CreateChatCompletionStreamResponse": ChatCompletionChunk,
    "CreateCompletionResponse": Completion,
    "CreateEmbeddingResponse": CreateEmbeddingResponse,
    "Response": Response,
    "ResponseStreamEvent": ResponseStreamEvent,
    "ListModelsResponse": SyncPage[Model],
    "Model": Model,
    "ErrorResponse": ErrorBody,
}

# Type and field: what clients of other engines know and OpenAI does not have.
ADDED = {
    ("ChatCompletionMessage", "reasoning_content"),
    ("ChoiceDelta", "reasoning_content"),
    ("Choice", "token_ids"),
    ("CompletionChoice", "token_ids"),
    ("ChatCompletion", "prompt_token_ids"),
    ("ChatCompletionChunk", "prompt_token_ids"),
    ("CompletionChoice", "prompt_token_ids"),
    ("ChatCompletion", "prompt_logprobs"),
    ("Model", "max_model_len"),
    # OpenAI has these too: one in its answers, one in its document of them.
    ("Response", "store"),
    ("ResponseFunctionCallArgumentsDoneEvent", "name"),
}

# What OpenAI's document has as required and perhaps null; in the types it may be missing.
REQUIRED: dict[type[BaseModel], set[str]] = {
    ErrorObject: {"code", "param"},
    ChatCompletionMessage: {"content", "refusal"},
    chat_completion.Choice: {"logprobs"},
    chat_completion.ChoiceLogprobs: {"content", "refusal"},
    chat_completion_chunk.Choice: {"finish_reason"},
    chat_completion_chunk.ChoiceLogprobs: {"content", "refusal"},
    ChatCompletionTokenLogprob: {"bytes"},
    CompletionChoice: {"logprobs"},
    FunctionTool: {"parameters", "strict"},
    Response: {"error", "incomplete_details", "instructions"},
}


@pytest.mark.parametrize("template", [HERMES, THINKING], ids=["plain", "reasoning"])
def test_every_answer_fits_its_type(host: Host) -> None:
    """Strictly: no number for a text, and nothing missing that the type has no default for."""
    adapters = {name: TypeAdapter(published) for name, published in TYPES.items()}
    added: set[tuple[str, str]] = set()
    counts: Counter[str] = Counter()
    met: set[type[BaseModel]] = set()
    for name, body in all_answers(host):
        text = json.dumps(without_legacy_nulls(name, body))
        value = adapters[name].validate_json(text, strict=True)
        for model in models_in(value):
            added |= {(type(model).__name__, field) for field in model.model_extra or {}}
            assert REQUIRED.get(type(model), set()) <= model.model_fields_set, (name, body)
            met.add(type(model))
        counts[name] += 1
    assert counts.keys() == TYPES.keys() and met >= REQUIRED.keys()
    assert added <= ADDED


def without_legacy_nulls(name: str, body: Json) -> Json:
    """The document of plain completions leaves out that OpenAI's own have nulls in these places:
    no finish reason until the last chunk, no probability of an echoed prompt's first token."""
    if name != "CreateCompletionResponse":
        return body
    for choice in body["choices"]:
        choice["finish_reason"] = choice["finish_reason"] or "stop"
        logprobs = choice["logprobs"]
        if logprobs and logprobs["token_logprobs"][:1] == [None]:
            assert logprobs["top_logprobs"][0] is None
            logprobs["token_logprobs"][0], logprobs["top_logprobs"][0] = 0.0, {}
    return body


def models_in(value: object) -> Iterator[BaseModel]:
    if isinstance(value, list):
        for item in value:
            yield from models_in(item)
    elif isinstance(value, BaseModel):
        yield value
        for name in type(value).model_fields:
            yield from models_in(getattr(value, name))
