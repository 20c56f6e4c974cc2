"""Text that comes in pieces, read by generators that go on when there is more.

Such a generator, a script, yields parts, and None where it needs more text than there is. It reads
the same parts from the same text, however that was cut.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TypeVar

from qoq.server.tools.parts import Content, Part, Reasoning

T = TypeVar("T")
Script = Generator[Part | None, None, T]


class Reader:
    """``text`` is what has come and is not taken yet; ``is_complete``: no more will come."""

    def __init__(self) -> None:
        self.text = ""
        self.is_complete = False

    def take_if(self, marker: str) -> Script[bool]:
        """Whether ``marker`` comes next; then it is taken."""
        while len(self.text) < len(marker) and marker.startswith(self.text):
            if self.is_complete:
                return False
            yield None
        found = self.text.startswith(marker)
        self.take(len(marker) * found)
        return found

    def take(self, count: int) -> str:
        taken, self.text = self.text[:count], self.text[count:]
        return taken

    def skip_space(self) -> Script[str]:
        """The next character that is no whitespace, not taken; "" at the end."""
        while True:
            self.text = self.text.lstrip()
            if self.text or self.is_complete:
                return self.text[:1]
            yield None

    def take_until(self, *markers: str) -> tuple[str, str | None]:
        """Text and the first of the markers after it, taken both; None where none has come yet.

        What could be the beginning of a marker stays.
        """
        found = [(at, marker) for marker in markers if (at := self.text.find(marker)) >= 0]
        if found:
            at, marker = min(found)
            text = self.take(at)
            self.take(len(marker))
            return text, marker
        if self.is_complete:
            return self.take(len(self.text)), None
        num_held = max((_num_held(self.text, marker) for marker in markers), default=0)
        return self.take(len(self.text) - num_held), None

    def read_until(self, *markers: str) -> Script[tuple[str, str | None]]:
        """As ``take_until``, but waits for a marker; None where the text has ended without one."""
        texts = []
        while True:
            text, marker = self.take_until(*markers)
            texts.append(text)
            if marker is not None or self.is_complete:
                return "".join(texts), marker
            yield None


class Parser:
    """Runs a script over the text of one answer."""

    def __init__(self, script: Callable[[Reader], Script[None]]) -> None:
        self._reader = Reader()
        self._script = script(self._reader)

    def add(self, text: str) -> list[Part]:
        self._reader.text += text
        return self._run()

    def finish(self) -> list[Part]:
        self._reader.is_complete = True
        return self._run()

    def _run(self) -> list[Part]:
        parts: list[Part] = []
        for part in self._script:
            if part is None:
                break
            parts.append(part)
        return parts


def read_text(
    reader: Reader,
    kind: type[Content] | type[Reasoning],
    *markers: str,
    trims_start: bool,
    trims_end: bool = False,
) -> Script[str | None]:
    """Parts up to the marker that is returned, or to the end, which is None.

    Whitespace before a marker is dropped; at the start and at the end where the flags say so.
    """
    space = ""
    while True:
        text, marker = reader.take_until(*markers)
        text = space + text
        if trims_start:
            text = text.lstrip()
            trims_start = not text
        shown = text.rstrip()
        space = text[len(shown) :]
        if shown:
            yield kind(shown)
        if marker is not None:
            return marker
        if reader.is_complete:
            if space and not trims_end:
                yield kind(space)
            return None
        yield None


def _num_held(text: str, marker: str) -> int:
    """Length of the longest end of ``text`` that ``marker`` begins with."""
    longest = min(len(text), len(marker) - 1)
    return next((n for n in range(longest, 0, -1) if marker.startswith(text[-n:])), 0)
