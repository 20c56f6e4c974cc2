"""A stream for copies beside the one that computes, and how the two wait for each other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class CopyStream:
    """The current stream ``mark``s what copies wait for, and ``join``s them where it needs them.

    On the CPU, where everything runs in order, there is nothing to wait for.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._mark = torch.cuda.Event() if device.type == "cuda" else None

    def mark(self) -> None:
        if self._mark is not None:
            self._mark.record()

    @contextmanager
    def after_mark(self) -> Iterator[None]:
        """What is started inside runs in this stream, after all that came before the last mark."""
        if self._stream is None or self._mark is None:
            yield
            return
        self._stream.wait_event(self._mark)
        with torch.cuda.stream(self._stream):
            yield

    def join(self) -> None:
        """What comes next in the current stream sees all copies done."""
        if self._stream is not None:
            torch.cuda.current_stream().wait_stream(self._stream)
