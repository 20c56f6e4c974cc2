"""Responses of the past, for a while: a bounded number of them, of a bounded size together."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import msgspec

from qoq.server.errors import ApiError
from qoq.server.responses.wire import Item

MAX_RESPONSES = 1024
MAX_BYTES = 64 * 1024**2


@dataclass(slots=True)
class Stored:
    """``items`` are the conversation that led to the response. ``task`` makes it, if it is new."""

    response: dict[str, Any]
    items: list[Item]
    num_bytes: int = 0
    task: asyncio.Task[None] | None = None


class ResponseStore:
    """The oldest leave first, but not those that are still being made."""

    def __init__(self) -> None:
        self._stored: OrderedDict[str, Stored] = OrderedDict()
        self._num_bytes = 0

    @property
    def num_running(self) -> int:
        return sum(stored.task is not None for stored in self._stored.values())

    def add(self, stored: Stored) -> None:
        self._stored[stored.response["id"]] = stored
        self.settle(stored)

    def settle(self, stored: Stored) -> None:
        """Count the size again, which has grown, and make room; nothing where it has left."""
        if self._stored.get(stored.response["id"]) is not stored:
            return
        items = [item.model_dump() for item in stored.items]
        num_bytes = len(msgspec.json.encode([stored.response, items]))
        self._num_bytes += num_bytes - stored.num_bytes
        stored.num_bytes = num_bytes
        done = [key for key, other in self._stored.items() if other.task is None]
        for key in done:
            if len(self._stored) <= MAX_RESPONSES and self._num_bytes <= MAX_BYTES:
                return
            self.remove(key)

    def get(self, response_id: str, param: str) -> Stored:
        """Raises ApiError (404)."""
        if response_id not in self._stored:
            raise not_found(response_id, param)
        return self._stored[response_id]

    def remove(self, response_id: str) -> None:
        self._num_bytes -= self._stored.pop(response_id).num_bytes


def not_found(response_id: str, param: str) -> ApiError:
    return ApiError(
        f"There is no response '{response_id}' here, or none any more.",
        status=404,
        param=param,
        code="response_not_found",
    )
