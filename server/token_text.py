"""One choice's tokens -> what may be shown of them: text, and the tokens that it is made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from qoq.engine.protocol import TokenLogprobs
from qoq.server.detokenizer import Detokenizer, StopStrings
from qoq.server.pieces import Pieces


@dataclass(frozen=True, slots=True, kw_only=True)
class TextOptions:
    """``echo`` shows the prompt first. Stop strings end the text after ``min_tokens`` tokens.

    ``continues_prompt``: the text goes on from the prompt's, and the token that ends it counts
    among its tokens, as in completions. ``traces_tokens`` says at which character each token
    begins. Without ``has_output``, the prompt is all there is.
    """

    stops: tuple[str, ...] = ()
    includes_stop: bool = False
    min_tokens: int = 0
    echo: bool = False
    has_output: bool = True
    continues_prompt: bool = False
    traces_tokens: bool = False


@dataclass(frozen=True, slots=True)
class TracedToken:
    """``offset``: the character of the text at which the token begins. The first has no logprobs.

    A token that only finishes or begins a character begins where that character does.
    """

    token_id: int
    offset: int
    logprobs: TokenLogprobs | None


@dataclass(slots=True)
class Shown:
    """What one output adds: ``token_ids`` are all of the output's, ``traced`` those of the text."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    traced: list[TracedToken] = field(default_factory=list)
    is_stopped: bool = False


class TokenText:
    """What it shows does not depend on how the tokens were cut into outputs.

    That is why stop strings and traces make it go token by token: what follows a stop string in
    the same output is dropped, and counts for nothing.
    """

    def __init__(self, options: TextOptions, pieces: Pieces) -> None:
        self._options = options
        continues = options.continues_prompt and not options.echo
        self._detokenizer = Detokenizer(pieces, continues_text=continues)
        self._stops = StopStrings(options.stops, includes_stop=options.includes_stop)
        self._by_token = bool(options.stops) or options.traces_tokens
        self._num_tokens = 0
        self._num_decoded = 0
        self._num_shown = 0
        self._waiting: list[TracedToken] = []

    def add_prompt(self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs]) -> Shown:
        """The prompt as the beginning of the text, no part of the output. No stop string ends it.

        ``logprobs`` are those of all tokens but the first, or none.
        """
        shown = Shown()
        known = [None, *logprobs] if logprobs else [None] * len(token_ids)
        for token_id, own in zip(token_ids, known, strict=True):
            self._trace(token_id, own)
            self._show(shown, self._decode([token_id]))
        return shown

    def add(
        self,
        token_ids: Sequence[int],
        logprobs: Sequence[TokenLogprobs] = (),
        *,
        ends_in_token: bool = False,
    ) -> Shown:
        """``ends_in_token``: the last token ended the output, and is no text."""
        shown = Shown()
        text_ids = token_ids[:-1] if ends_in_token else token_ids
        if self._by_token:
            self._add_each(shown, text_ids, logprobs)
        else:
            shown.token_ids += text_ids
            shown.text += self._decode(text_ids)
        if ends_in_token and not shown.is_stopped:
            shown.token_ids.append(token_ids[-1])
            if self._options.continues_prompt:
                self._trace(token_ids[-1], logprobs[-1] if logprobs else None)
        return shown

    def finish(self) -> Shown:
        """What was held back, once nothing more can come."""
        shown = Shown()
        rest = self._detokenizer.finish()
        if self._is_armed(self._num_tokens):
            rest, shown.is_stopped = self._stops.add(rest)
        self._show(shown, rest if shown.is_stopped else rest + self._stops.finish())
        if not shown.is_stopped:
            shown.traced += self._waiting
        return shown

    def _add_each(
        self, shown: Shown, token_ids: Iterable[int], logprobs: Sequence[TokenLogprobs]
    ) -> None:
        for place, token_id in enumerate(token_ids):
            self._trace(token_id, logprobs[place] if logprobs else None)
            shown.token_ids.append(token_id)
            self._num_tokens += 1
            text = self._decode([token_id])
            if self._is_armed(self._num_tokens):
                text, shown.is_stopped = self._stops.add(text)
            self._show(shown, text)
            if shown.is_stopped:
                return

    def _is_armed(self, num_tokens: int) -> bool:
        return bool(self._options.stops) and num_tokens > self._options.min_tokens

    def _decode(self, token_ids: Sequence[int]) -> str:
        text = self._detokenizer.add(token_ids)
        self._num_decoded += len(text)
        return text

    def _trace(self, token_id: int, logprobs: TokenLogprobs | None) -> None:
        if self._options.traces_tokens:
            self._waiting.append(TracedToken(token_id, self._num_decoded, logprobs))

    def _show(self, shown: Shown, text: str) -> None:
        """A token is shown with the first character of it that is."""
        shown.text += text
        self._num_shown += len(text)
        while self._waiting and self._waiting[0].offset < self._num_shown:
            shown.traced.append(self._waiting.pop(0))
