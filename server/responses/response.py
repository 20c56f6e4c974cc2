"""A response in the making: the deltas of a chat answer, made items and the events about them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from qoq.server.responses.item import CallItem, OutputItem, ReasoningItem, TextItem
from qoq.server.responses.wire import ResponseRequest

Json = dict[str, Any]


class ResponseBuilder:
    """``response`` is at any time what there is of it. Events are numbered in order."""

    def __init__(self, body: ResponseRequest, response_id: str) -> None:
        self.response = _new_response(body, response_id)
        self._item: OutputItem | None = None
        self._num_events = 0
        self._finish_reason = ""
        self._usage: Json = {}

    def begin(self) -> Iterator[Json]:
        yield self._event("response.created", response=self.response)
        self.response["status"] = "in_progress"
        yield self._event("response.in_progress", response=self.response)

    def add_chunk(self, chunk: Json) -> Iterator[Json]:
        """A chunk of the chat answer's stream."""
        self._usage = chunk.get("usage") or self._usage
        for choice in chunk["choices"]:
            self._finish_reason = choice["finish_reason"] or self._finish_reason
            yield from self._add(choice["delta"])

    def _add(self, delta: Json) -> Iterator[Json]:
        """Reasoning, text and calls come in this order, also within a delta."""
        if text := delta.get("reasoning_content"):
            yield from self._continue(ReasoningItem, text)
        if text := delta.get("content"):
            yield from self._continue(TextItem, text)
        for call in delta.get("tool_calls", ()):
            function = call["function"]
            if "id" in call:
                yield from self._open(CallItem(call["id"], function["name"]))
            if function["arguments"]:
                yield from self._continue(CallItem, function["arguments"])

    def finish(self) -> Iterator[Json]:
        is_whole = self._finish_reason != "length"
        yield from self._close("completed" if is_whole else "incomplete")
        self.response["usage"] = _usage(self._usage)
        self.response["completed_at"] = int(time.time())
        if is_whole:
            yield self._end("completed")
        else:
            self.response["incomplete_details"] = {"reason": "max_output_tokens"}
            yield self._end("incomplete")

    def fail(self, message: str) -> Json:
        self.response["error"] = {"code": "server_error", "message": message}
        return self._end("failed")

    def cancel(self) -> None:
        self.response["status"] = "cancelled"

    def _end(self, status: str) -> Json:
        self.response["status"] = status
        return self._event(f"response.{status}", response=self.response)

    def _continue(self, kind: type[OutputItem], text: str) -> Iterator[Json]:
        if not isinstance(self._item, kind):
            yield from self._open(kind())
        assert self._item is not None
        yield self._of_item(self._item.add(text))

    def _open(self, item: OutputItem) -> Iterator[Json]:
        yield from self._close("completed")
        self._item = item
        self.response["output"].append(item.json)
        for event in item.begin():
            yield self._of_item(event)

    def _close(self, status: str) -> Iterator[Json]:
        if self._item is None:
            return
        for event in self._item.finish(status):
            yield self._of_item(event)
        self._item = None

    def _of_item(self, event: Json) -> Json:
        return self._event(**event, output_index=len(self.response["output"]) - 1)

    def _event(self, type: str, **fields: Any) -> Json:
        event = {"type": type, "sequence_number": self._num_events, **fields}
        self._num_events += 1
        return event


def _new_response(body: ResponseRequest, response_id: str) -> Json:
    """Every field that the API has, as asked for or as it is by default.

    OpenAI's schema has no null for ``usage`` before the end, a ``user`` or parts of a format.
    """
    asked = body.model_dump(mode="json", by_alias=True)
    form = (asked["text"] or {}).get("format") or {"type": "text"}
    user = {} if body.user is None else {"user": body.user}
    return user | {
        "id": response_id,
        "object": "response",
        "created_at": int(time.time()),
        "completed_at": None,
        "status": "queued",
        "background": bool(body.background),
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": None,
        "model": body.model,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": body.previous_response_id,
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "store": body.store is not False,
        "temperature": 1.0 if body.temperature is None else body.temperature,
        "text": {"format": {key: value for key, value in form.items() if value is not None}},
        "tool_choice": asked["tool_choice"] or "auto",
        "tools": asked["tools"] or [],
        "top_logprobs": 0,
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "truncation": "disabled",
        "metadata": body.metadata or {},
    }


def _usage(usage: Json) -> Json:
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {**usage["prompt_tokens_details"], "cache_write_tokens": 0},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage["total_tokens"],
    }
