"""Deltas -> the JSON of an answer, whole or as the chunks of a stream.

Plain dictionaries, because a chunk is made for every token; ``qoq.server.answer`` documents them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from qoq.server.choice import Delta
from qoq.server.generation import Generation
from qoq.server.logprobs import LogprobsFormat
from qoq.server.pieces import Pieces
from qoq.server.tools.message import Message
from qoq.server.tools.speech import Speech

Json = dict[str, Any]


class AnswerBuilder(Protocol):
    """How one endpoint spells an answer."""

    def opening(self, index: int) -> Json | None:
        """The chunk before a choice's first text, if there is one."""

    def delta(self, delta: Delta) -> Json | None:
        """None where there is nothing to show yet."""

    def final(self, index: int, finish_reason: str) -> Json: ...

    def usage(self, usage: Json) -> Json: ...

    def whole(self, choices: Sequence[Delta], usage: Json) -> Json:
        """Each of ``choices`` is everything that its deltas add up to."""


class CompletionBuilder:
    def __init__(self, generation: Generation, pieces: Pieces) -> None:
        self._generation = generation
        self._spelling = _Spelling(generation, pieces)
        self._head = _head(generation) | {"object": "text_completion"}

    def opening(self, index: int) -> Json | None:
        if not self._generation.returns_token_ids:
            return None
        return self._chunk(_choice(index, None, text="") | self._prompt(index))

    def delta(self, delta: Delta) -> Json:
        return self._chunk(self._one(delta, None))

    def final(self, index: int, finish_reason: str) -> Json:
        return self._chunk(_choice(index, finish_reason, text=""))

    def usage(self, usage: Json) -> Json:
        return {**self._head, "choices": [], "usage": usage}

    def whole(self, choices: Sequence[Delta], usage: Json) -> Json:
        shown = [
            self._one(choice, choice.finish_reason)
            | self._prompt(place)
            | self._spelling.prompt_logprobs(choice)
            for place, choice in enumerate(choices)
        ]
        return {**self._head, "choices": shown, "usage": usage}

    def _one(self, delta: Delta, finish_reason: str | None) -> Json:
        choice = _choice(delta.index, finish_reason, text=delta.text)
        if (logprobs := self._spelling.logprobs) is not None:
            choice["logprobs"] = logprobs.of_completion(delta.traced)
        return choice | self._spelling.token_ids(delta)

    def _prompt(self, index: int) -> Json:
        if not self._generation.returns_token_ids:
            return {}
        generation = self._generation
        request = generation.requests[index // generation.n * generation.best_of]
        return {"prompt_token_ids": request.prompt_token_ids}

    def _chunk(self, choice: Json) -> Json:
        return {**self._head, "choices": [choice]}


class ChatBuilder:
    def __init__(self, generation: Generation, pieces: Pieces) -> None:
        self._generation = generation
        self._spelling = _Spelling(generation, pieces)
        self._head = _head(generation) | {"object": "chat.completion"}
        self._chunk_head = _head(generation) | {"object": "chat.completion.chunk"}

    def opening(self, index: int) -> Json:
        chunk = self._chunk(_choice(index, None, delta={"role": "assistant", "content": ""}))
        return chunk | self._prompt()

    def delta(self, delta: Delta) -> Json | None:
        choice = _choice(delta.index, None, delta={"content": delta.text})
        return self._chunk(choice | self._logprobs(delta) | self._spelling.token_ids(delta))

    def final(self, index: int, finish_reason: str) -> Json:
        return self._chunk(_choice(index, finish_reason, delta={}))

    def usage(self, usage: Json) -> Json:
        return {**self._chunk_head, "choices": [], "usage": usage}

    def whole(self, choices: Sequence[Delta], usage: Json) -> Json:
        body = {**self._head, "choices": [self._one(choice) for choice in choices], "usage": usage}
        return body | self._prompt() | self._spelling.prompt_logprobs(choices[0])

    def _one(self, choice: Delta) -> Json:
        message = {"role": "assistant", "content": choice.text, "refusal": None}
        shown = _choice(choice.index, choice.finish_reason, message=message)
        return shown | self._logprobs(choice) | self._spelling.token_ids(choice)

    def _logprobs(self, delta: Delta) -> Json:
        spelling = self._spelling.logprobs
        return {} if spelling is None else {"logprobs": spelling.of_chat(delta.traced)}

    def _prompt(self) -> Json:
        if not self._generation.returns_token_ids:
            return {}
        return {"prompt_token_ids": self._generation.requests[0].prompt_token_ids}

    def _chunk(self, choice: Json) -> Json:
        return {**self._chunk_head, "choices": [choice]}


class MessageBuilder(ChatBuilder):
    """A chat answer whose text holds reasoning or calls of tools."""

    def __init__(self, generation: Generation, pieces: Pieces, speech: Speech) -> None:
        super().__init__(generation, pieces)
        self._speech = speech
        self._messages = [Message(speech) for _ in generation.requests]

    def delta(self, delta: Delta) -> Json | None:
        said = self._messages[delta.index].add(delta.text)
        shown = self._logprobs(delta) | self._spelling.token_ids(delta)
        if not said and not shown:
            return None
        return self._chunk(_choice(delta.index, None, delta=said) | shown)

    def final(self, index: int, finish_reason: str) -> Json:
        message = self._messages[index]
        rest = message.finish()
        return self._chunk(_choice(index, message.finish_reason(finish_reason), delta=rest))

    def _one(self, choice: Delta) -> Json:
        message = Message(self._speech)
        whole = message.whole(choice.text)
        reason = message.finish_reason(choice.finish_reason or "")
        shown = _choice(choice.index, reason, message=whole)
        return shown | self._logprobs(choice) | self._spelling.token_ids(choice)


class _Spelling:
    """What an answer shows beside text, where it was asked for."""

    def __init__(self, generation: Generation, pieces: Pieces) -> None:
        self._returns_token_ids = generation.returns_token_ids
        shown, prompts = generation.num_logprobs, generation.num_prompt_logprobs
        self.logprobs = None if shown is None else LogprobsFormat(pieces, shown)
        self._of_prompts = None if prompts is None else LogprobsFormat(pieces, prompts)

    def token_ids(self, delta: Delta) -> Json:
        return {"token_ids": delta.token_ids} if self._returns_token_ids else {}

    def prompt_logprobs(self, choice: Delta) -> Json:
        if self._of_prompts is None:
            return {}
        return {"prompt_logprobs": self._of_prompts.of_prompt(choice.prompt_logprobs or [])}


def builder_of(generation: Generation, pieces: Pieces) -> AnswerBuilder:
    """``pieces`` names every token, special ones too."""
    if generation.speech is not None:
        return MessageBuilder(generation, pieces, generation.speech)
    kind = ChatBuilder if generation.is_chat else CompletionBuilder
    return kind(generation, pieces)


def _head(generation: Generation) -> Json:
    head: Json = {
        "id": generation.id,
        "created": generation.created_s,
        "model": generation.model_name,
    }
    return head | {"usage": None} if generation.include_usage else head


def _choice(index: int, finish_reason: str | None, **content: object) -> Json:
    return {"index": index, **content, "logprobs": None, "finish_reason": finish_reason}
