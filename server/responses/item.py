"""The items of a response's output: text, reasoning, a call. Each tells the events of its life.

``json`` is the item, shared with the response that it is part of.
"""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from copy import deepcopy
from typing import Any, ClassVar

Json = dict[str, Any]


class OutputItem(ABC):
    json: Json

    @abstractmethod
    def add(self, text: str) -> Json:
        """The event of that text."""

    @abstractmethod
    def begin(self) -> Iterator[Json]: ...

    @abstractmethod
    def finish(self, status: str) -> Iterator[Json]: ...

    def _added(self) -> Json:
        return {"type": "response.output_item.added", "item": deepcopy(self.json)}

    def _done(self, status: str) -> Json:
        self.json["status"] = status
        return {"type": "response.output_item.done", "item": deepcopy(self.json)}


class _PartItem(OutputItem):
    """An item with one part of text. ``_EVENT`` names the events of that."""

    _EVENT: ClassVar[str]

    def __init__(self, head: Json, part: Json) -> None:
        self.json = {**head, "status": "in_progress", "content": []}
        self._part = part
        self._pieces: list[str] = []
        self._place = {"item_id": head["id"], "content_index": 0}

    def begin(self) -> Iterator[Json]:
        yield self._added()
        self.json["content"].append(self._part)
        yield {"type": "response.content_part.added", **self._place, "part": dict(self._part)}

    def add(self, text: str) -> Json:
        self._pieces.append(text)
        event = {"type": f"response.{self._EVENT}.delta", **self._place, "delta": text}
        return event | self._extras()

    def finish(self, status: str) -> Iterator[Json]:
        text = self._part["text"] = "".join(self._pieces)
        yield {"type": f"response.{self._EVENT}.done", **self._place, "text": text} | self._extras()
        yield {"type": "response.content_part.done", **self._place, "part": dict(self._part)}
        yield self._done(status)

    def _extras(self) -> Json:
        return {}


class TextItem(_PartItem):
    _EVENT = "output_text"

    def __init__(self) -> None:
        head = {"id": _new_id("msg"), "type": "message", "role": "assistant"}
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        super().__init__(head, part)

    def _extras(self) -> Json:
        return {"logprobs": []}


class ReasoningItem(_PartItem):
    _EVENT = "reasoning_text"

    def __init__(self) -> None:
        head = {"id": _new_id("rs"), "type": "reasoning", "summary": []}
        super().__init__(head, {"type": "reasoning_text", "text": ""})


class CallItem(OutputItem):
    def __init__(self, call_id: str = "", name: str = "") -> None:
        self._id = _new_id("fc")
        self._pieces: list[str] = []
        self.json = {
            "id": self._id,
            "type": "function_call",
            "call_id": call_id,
            "name": name,
            "arguments": "",
            "status": "in_progress",
        }

    def begin(self) -> Iterator[Json]:
        yield self._added()

    def add(self, text: str) -> Json:
        self._pieces.append(text)
        kind = "response.function_call_arguments.delta"
        return {"type": kind, "item_id": self._id, "delta": text}

    def finish(self, status: str) -> Iterator[Json]:
        arguments = self.json["arguments"] = "".join(self._pieces)
        yield {
            "type": "response.function_call_arguments.done",
            "item_id": self._id,
            "name": self.json["name"],
            "arguments": arguments,
        }
        yield self._done(status)


def _new_id(prefix: str) -> str:
    return f"{prefix}_{uuid.uuid4().hex}"
