"""The parts of an answer as OpenAI spells them: a delta for each piece, or one whole message."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qoq.server.tools.parts import CallArguments, CallStart, Content, Part, Reasoning
from qoq.server.tools.speech import Speech

Json = dict[str, Any]


class Message:
    """One choice's message in the making. Every ``add`` returns what is new, as a delta."""

    def __init__(self, speech: Speech) -> None:
        self._speech = speech
        self._parser = speech.parser()
        self._num_calls = 0

    def add(self, text: str) -> Json:
        return self._delta(self._parser.add(text))

    def finish(self) -> Json:
        return self._delta(self._parser.finish())

    def whole(self, text: str) -> Json:
        """Everything at once, from the complete text."""
        delta = self._delta(self._parser.add(text) + self._parser.finish())
        calls = delta.get("tool_calls", [])
        content = delta.get("content", None if calls else "")
        message: Json = {"role": "assistant", "content": content, "refusal": None}
        if "reasoning_content" in delta:
            message["reasoning_content"] = delta["reasoning_content"]
        if calls:
            keys = ("id", "type", "function")
            message["tool_calls"] = [{key: call[key] for key in keys} for call in calls]
        return message

    def finish_reason(self, reason: str) -> str:
        """``tool_calls`` where the model stopped to call, and of its own choice."""
        is_call = reason == "stop" and self._num_calls and not self._speech.is_named
        return "tool_calls" if is_call else reason

    def _delta(self, parts: Sequence[Part]) -> Json:
        delta: Json = {}
        for part in parts:
            match part:
                case Content(text):
                    _append(delta, "content", text)
                case Reasoning(text):
                    _append(delta, "reasoning_content", text)
                case CallStart(name):
                    delta.setdefault("tool_calls", []).append(self._start(name))
                case CallArguments(text):
                    self._continue(delta.setdefault("tool_calls", []), text)
        return delta

    def _start(self, name: str) -> Json:
        index, self._num_calls = self._num_calls, self._num_calls + 1
        function = {"name": name, "arguments": ""}
        call_id = self._speech.new_call_id()
        return {"index": index, "id": call_id, "type": "function", "function": function}

    def _continue(self, calls: list[Json], text: str) -> None:
        if not calls:
            calls.append({"index": self._num_calls - 1, "function": {"arguments": ""}})
        calls[-1]["function"]["arguments"] += text


def _append(delta: Json, key: str, text: str) -> None:
    delta[key] = delta.get(key, "") + text
