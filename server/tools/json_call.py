"""A call written as JSON, ``{"name": ..., "arguments": {...}}``, read while it comes."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator

from qoq.server.tools.json_value import ValueScanner
from qoq.server.tools.parts import CallArguments, CallStart
from qoq.server.tools.reader import Reader, Script

_ARGUMENTS = ("arguments", "parameters")
_OTHER_KEYS = ("type", "id")


class NotACallError(Exception):
    """The text is no call; ``text`` is what was taken of it."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class _MalformedError(Exception):
    """The text ends, or goes on in a way that a call does not."""


def read_call(reader: Reader, names: Collection[str] | None = None) -> Script[None]:
    """One call. The keys may come in any order; others are skipped.

    Raises NotACallError where it is no object or ends before its name; with ``names``, which tell a
    call from other JSON, also for another name or key. What breaks off after its name is a call as
    far as it came.
    """
    yield from _Call(reader, names).read()


def read_arguments(reader: Reader) -> Script[None]:
    """A JSON value as CallArguments, as far as it comes."""
    for piece in _JsonReader(reader).pieces():
        yield None if piece is None else CallArguments(piece)


class _JsonReader:
    """``taken`` is all that was read."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.taken = ""
        self.is_whole = False

    def next(self) -> Script[str]:
        """The next character that is no whitespace, not taken."""
        while True:
            text = self._reader.text
            self.take(len(text) - len(text.lstrip()))
            if self._reader.text:
                return self._reader.text[0]
            if self._reader.is_complete:
                raise _MalformedError
            yield None

    def expect(self, char: str) -> Script[None]:
        if (yield from self.next()) != char:
            raise _MalformedError
        self.take(1)

    def string(self) -> Script[str]:
        if (yield from self.next()) != '"':
            raise _MalformedError
        try:
            return _text((yield from self.value()))
        except ValueError:
            raise _MalformedError from None

    def value(self) -> Script[str]:
        """As it is written."""
        text = ""
        for piece in self.pieces():
            if piece is None:
                yield None
            else:
                text += piece
        if not self.is_whole:
            raise _MalformedError
        return text

    def pieces(self) -> Iterator[str | None]:
        """A value as it comes; None where more text is needed."""
        scanner = ValueScanner()
        while True:
            if piece := self.take(scanner.scan(self._reader.text)):
                yield piece
            if scanner.is_done or self._reader.is_complete:
                self.is_whole = scanner.is_done
                return
            yield None

    def take(self, count: int) -> str:
        text = self._reader.take(count)
        self.taken += text
        return text


class _Call:
    def __init__(self, reader: Reader, names: Collection[str] | None) -> None:
        self._json = _JsonReader(reader)
        self._names = names
        self._name: str | None = None
        self._early_arguments: str | None = None
        self._has_arguments = False

    def read(self) -> Script[None]:
        try:
            yield from self._object()
        except _MalformedError:
            if self._name is None:
                raise NotACallError(self._json.taken) from None
            return
        if self._name is None:
            raise NotACallError(self._json.taken)
        if not self._has_arguments:
            yield CallArguments("{}")

    def _object(self) -> Script[None]:
        yield from self._json.expect("{")
        while (yield from self._json.next()) != "}":
            yield from self._member()
            if (yield from self._json.next()) == ",":
                self._json.take(1)
        self._json.take(1)

    def _member(self) -> Script[None]:
        key = yield from self._json.string()
        yield from self._json.expect(":")
        first = yield from self._json.next()
        if key == "name" and self._name is None:
            yield from self._start((yield from self._json.string()))
        elif key in _ARGUMENTS and self._name is not None and not self._has_arguments:
            yield from self._arguments(is_text=first == '"')
        elif key in _ARGUMENTS and self._name is None:
            self._early_arguments = yield from self._json.value()
        elif self._names is None or self._name is not None or key in _OTHER_KEYS:
            yield from self._json.value()
        else:
            raise _MalformedError

    def _start(self, name: str) -> Script[None]:
        if self._names is not None and name not in self._names:
            raise _MalformedError
        self._name = name
        yield CallStart(name)
        if self._early_arguments is not None:
            self._has_arguments = True
            yield CallArguments(_decoded(self._early_arguments))

    def _arguments(self, *, is_text: bool) -> Script[None]:
        self._has_arguments = True
        if is_text:
            yield CallArguments(_decoded((yield from self._json.value())))
            return
        for piece in self._json.pieces():
            yield None if piece is None else CallArguments(piece)


def _decoded(value: str) -> str:
    """Arguments that a model wrote as a string hold the JSON."""
    if not value.startswith('"'):
        return value
    try:
        return _text(value)
    except ValueError:
        return value


def _text(value: str) -> str:
    """Raises ValueError where a JSON string is malformed or spells half a surrogate pair."""
    text = str(json.loads(value))
    text.encode()
    return text
