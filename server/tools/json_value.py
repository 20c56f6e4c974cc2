"""Where a JSON value ends, by brackets and quotes alone."""

from __future__ import annotations


class ValueScanner:
    """Reads one value over any number of pieces."""

    def __init__(self) -> None:
        self.is_done = False
        self._depth = 0
        self._in_string = False
        self._is_escaped = False
        self._in_scalar = False

    def scan(self, text: str) -> int:
        """How many characters of ``text``, the next of the value, belong to it."""
        for place, char in enumerate(text):
            if self._is_after(char):
                self.is_done = True
                return place
            self._step(char)
            if self.is_done:
                return place + 1
        return len(text)

    def _is_after(self, char: str) -> bool:
        """Whether ``char`` follows a number, true, false, null or nothing."""
        if self._depth or self._in_string:
            return False
        return char in ",]}" or (self._in_scalar and char.isspace())

    def _step(self, char: str) -> None:
        if self._in_string:
            self._in_string = self._is_escaped or char != '"'
            self._is_escaped = char == "\\" and not self._is_escaped
        elif char == '"':
            self._in_string = True
        elif char in "{[":
            self._depth += 1
        elif char in "}]":
            self._depth -= 1
        elif self._depth == 0:
            self._in_scalar = True
        self.is_done = not (self._depth or self._in_string or self._in_scalar)
