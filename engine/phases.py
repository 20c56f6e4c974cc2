"""Where the time of a start goes."""

from __future__ import annotations

import time


class Phases:
    """``seconds`` of each phase by name, in order; each begins where the one before ended."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since_s = time.monotonic()

    def end(self, name: str) -> None:
        now_s = time.monotonic()
        self.seconds[name] = now_s - self._since_s
        self._since_s = now_s


def phases_text(seconds: dict[str, float]) -> str:
    """``weights 1.2 s, memory 0.3 s``."""
    return ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
