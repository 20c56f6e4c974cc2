"""The JSON of a response, as models: the document of the API, checked against in tests."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel


class CachedTokens(BaseModel):
    cached_tokens: int


class ReasoningTokens(BaseModel):
    reasoning_tokens: int


class ResponseUsage(BaseModel):
    input_tokens: int
    input_tokens_details: CachedTokens
    output_tokens: int
    output_tokens_details: ReasoningTokens
    total_tokens: int


class ResponseError(BaseModel):
    code: str
    message: str


class ModelResponse(BaseModel):
    """``output`` holds items of type message, reasoning and function_call."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
    background: bool
    error: ResponseError | None
    incomplete_details: dict[str, str] | None
    instructions: str | None
    model: str
    output: list[dict[str, Any]]
    previous_response_id: str | None
    usage: ResponseUsage | None = None
    metadata: dict[str, str]


class DeletedResponse(BaseModel):
    id: str
    object: Literal["response"]
    deleted: Literal[True]
