"""Which place of the device's per-request memory belongs to which request."""

from __future__ import annotations

import heapq


class Slots:
    """``count`` places; the lowest free one is taken first."""

    def __init__(self, count: int) -> None:
        self._free = list(range(count))
        self._taken: dict[str, int] = {}

    def __getitem__(self, request_id: str) -> int:
        return self._taken[request_id]

    def take(self, request_id: str) -> int:
        slot = self._taken[request_id] = heapq.heappop(self._free)
        return slot

    def release(self, request_id: str) -> None:
        """Does nothing where the request has none."""
        if request_id in self._taken:
            heapq.heappush(self._free, self._taken.pop(request_id))
