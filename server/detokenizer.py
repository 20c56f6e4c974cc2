"""Token ids -> text as they come: whole characters only, and never a stop string.

Costs the same for the thousandth token as for the first: nothing is decoded twice.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from qoq.server.pieces import Pieces

_Utf8Decoder = codecs.getincrementaldecoder("utf-8")


class Detokenizer:
    """Holds back the bytes of an unfinished character. Broken UTF-8 becomes U+FFFD.

    ``continues_text``: the tokens go on from a text that came before, so that the space which
    SentencePiece drops at the start of a text is kept.
    """

    def __init__(self, pieces: Pieces, *, continues_text: bool = False) -> None:
        self._pieces = pieces
        self._utf8 = _Utf8Decoder(errors="replace")
        self._at_start = not continues_text

    def add(self, token_ids: Sequence[int]) -> str:
        data = b"".join(map(self._pieces.__getitem__, token_ids))
        if self._at_start:
            data = self._start(token_ids, data)
        return self._utf8.decode(data)

    def finish(self) -> str:
        return self._utf8.decode(b"", final=True)

    def _start(self, token_ids: Sequence[int], data: bytes) -> bytes:
        first = next((token for token in token_ids if not self._pieces.is_skipped(token)), None)
        if first is None:
            return data
        self._at_start = False
        return self._pieces.first(first) + data[len(self._pieces[first]) :]


class StopStrings:
    """Passes text on until a stop string is complete, and holds back what could begin one.

    The stop string that is complete first wins; of two that end together, the longer. So the
    result does not depend on how the text was cut into pieces. ``includes_stop`` shows it too.
    """

    def __init__(self, stops: Sequence[str], *, includes_stop: bool = False) -> None:
        self._stops = tuple(stops)
        self._includes_stop = includes_stop
        prefixes = {stop[:length] for stop in stops for length in range(1, len(stop))}
        self._prefixes = tuple(sorted(prefixes, key=len, reverse=True))
        self._held = ""

    def add(self, text: str) -> tuple[str, bool]:
        """The text that may be shown now, and whether a stop string ended it."""
        text = self._held + text
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self._held = ""
            end, start = min(found)
            return text[: end if self._includes_stop else start], True
        shown = len(text) - self._num_held(text)
        self._held = text[shown:]
        return text[:shown], False

    def finish(self) -> str:
        """What was held back, once no more text can complete a stop string."""
        held, self._held = self._held, ""
        return held

    def _num_held(self, text: str) -> int:
        if not text.endswith(self._prefixes):
            return 0
        return next(len(prefix) for prefix in self._prefixes if text.endswith(prefix))
