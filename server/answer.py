"""The JSON of an answer: whole, or as the chunks of a stream.

The models document the format and are checked against in tests. The builders make plain
dictionaries, because a chunk is made for every token.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

from pydantic import BaseModel

Json = dict[str, Any]


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class CompletionChoice(BaseModel):
    index: int
    text: str
    logprobs: None
    finish_reason: Literal["stop", "length"]


class Completion(BaseModel):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage


class AssistantMessage(BaseModel):
    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(BaseModel):
    index: int
    message: AssistantMessage
    logprobs: None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class Model(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "qoq"
    max_model_len: int


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]


class Tokens(BaseModel):
    count: int
    max_model_len: int
    tokens: list[int]


class DetokenizedPrompt(BaseModel):
    prompt: str


class Version(BaseModel):
    version: str


class Status(BaseModel):
    status: Literal["ok", "ready"]


class Error(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    error: Error


class AnswerBuilder(Protocol):
    """How one endpoint spells an answer."""

    def opening(self, index: int) -> Json | None:
        """The chunk before a choice's first text, if there is one."""

    def delta(self, index: int, text: str) -> Json: ...

    def final(self, index: int, finish_reason: str) -> Json: ...

    def usage(self, usage: Json) -> Json: ...

    def whole(self, texts: list[str], finish_reasons: list[str], usage: Json) -> Json: ...


class CompletionBuilder:
    def __init__(self, head: Json) -> None:
        self._head = head | {"object": "text_completion"}

    def opening(self, index: int) -> None:
        return None

    def delta(self, index: int, text: str) -> Json:
        return {**self._head, "choices": [_choice(index, None, text=text)]}

    def final(self, index: int, finish_reason: str) -> Json:
        return {**self._head, "choices": [_choice(index, finish_reason, text="")]}

    def usage(self, usage: Json) -> Json:
        return {**self._head, "choices": [], "usage": usage}

    def whole(self, texts: list[str], finish_reasons: list[str], usage: Json) -> Json:
        choices = [
            _choice(index, reason, text=text)
            for index, (text, reason) in enumerate(zip(texts, finish_reasons, strict=True))
        ]
        return {**self._head, "choices": choices, "usage": usage}


class ChatBuilder:
    def __init__(self, head: Json) -> None:
        self._head = head | {"object": "chat.completion"}
        self._chunk_head = head | {"object": "chat.completion.chunk"}

    def opening(self, index: int) -> Json:
        return self._chunk(_choice(index, None, delta={"role": "assistant", "content": ""}))

    def delta(self, index: int, text: str) -> Json:
        return self._chunk(_choice(index, None, delta={"content": text}))

    def final(self, index: int, finish_reason: str) -> Json:
        return self._chunk(_choice(index, finish_reason, delta={}))

    def usage(self, usage: Json) -> Json:
        return {**self._chunk_head, "choices": [], "usage": usage}

    def whole(self, texts: list[str], finish_reasons: list[str], usage: Json) -> Json:
        choices = [
            _choice(index, reason, message={"role": "assistant", "content": text, "refusal": None})
            for index, (text, reason) in enumerate(zip(texts, finish_reasons, strict=True))
        ]
        return {**self._head, "choices": choices, "usage": usage}

    def _chunk(self, choice: Json) -> Json:
        return {**self._chunk_head, "choices": [choice]}


def _choice(index: int, finish_reason: str | None, **content: object) -> Json:
    return {"index": index, **content, "logprobs": None, "finish_reason": finish_reason}
