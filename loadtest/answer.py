"""One streamed answer as it comes in: server-sent events, the token counts in them, the end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from qoq.loadtest.record import TokenEvent, token_events


class BadAnswer(Exception):
    """The server answered, with something other than a stream that ends well."""


@dataclass(slots=True)
class Answer:
    """``totals``: the count of output tokens that came with an event, where one did."""

    times_s: list[float] = field(default_factory=list)
    totals: list[int | None] = field(default_factory=list)
    prompt_tokens: int = 0
    usage_tokens: int | None = None
    has_finish_reason: bool = False

    def take(self, data: bytes, now_s: float) -> None:
        """Note one event. Only text makes it a token event: a role or a count alone does not."""
        chunk = _parse(data)
        usage = chunk.get("usage") or {}
        if usage:
            self.prompt_tokens = usage.get("prompt_tokens", 0)
            self.usage_tokens = usage.get("completion_tokens", 0)
        for choice in chunk.get("choices") or ():
            if choice.get("text") or (choice.get("delta") or {}).get("content"):
                self.times_s.append(now_s)
                self.totals.append(usage.get("completion_tokens"))
            self.has_finish_reason |= choice.get("finish_reason") is not None

    @property
    def output_tokens(self) -> int:
        """A client that left before the final count saw at least a token in each event."""
        return len(self.times_s) if self.usage_tokens is None else self.usage_tokens

    def events(self) -> list[TokenEvent]:
        return token_events(self.times_s, self.totals, self.output_tokens)


class ServerSentEvents:
    """Bytes in, payloads out. In decoded text U+2028 and its like would end a line too."""

    def __init__(self) -> None:
        self._rest = b""

    def add(self, data: bytes) -> Iterator[bytes]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        return (line[5:].strip() for line in lines if line.startswith(b"data:"))


def _parse(data: bytes) -> dict[str, Any]:
    try:
        chunk = json.loads(data)
    except ValueError:
        chunk = None
    if not isinstance(chunk, dict):
        raise BadAnswer(f"an event is not a JSON object: {data[:200]!r}")
    if chunk.get("error"):
        raise BadAnswer(f"an error in the stream: {json.dumps(chunk['error'])[:300]}")
    return chunk
