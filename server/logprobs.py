"""Log-probabilities in OpenAI's three spellings: of chats, of completions, of prompts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from qoq.engine.protocol import TokenLogprobs
from qoq.server.pieces import Pieces
from qoq.server.token_text import TracedToken

Json = dict[str, Any]


class LogprobsFormat:
    """``num_top`` likeliest tokens are shown of each position; the engine may have given more.

    ``pieces`` must hold special tokens too, which have names here though they are no text.
    """

    def __init__(self, pieces: Pieces, num_top: int) -> None:
        self._pieces = pieces
        self._num_top = num_top

    def of_chat(self, traced: Iterable[TracedToken]) -> Json:
        content = []
        for token in traced:
            own = token.logprobs
            assert own is not None, "a chat shows no prompt"
            content.append(
                self._entry(own.token_id, own.logprob)
                | {"top_logprobs": [self._entry(*top) for top in self._top(own)]}
            )
        return {"content": content, "refusal": None}

    def of_completion(self, traced: Sequence[TracedToken]) -> Json:
        """Offsets are places in the text of the choice. The first token of a prompt has nulls."""
        known = [token.logprobs for token in traced]
        return {
            "tokens": [self._name(token.token_id) for token in traced],
            "token_logprobs": [own and own.logprob for own in known],
            "top_logprobs": [own and self._by_name(own) for own in known],
            "text_offset": [token.offset for token in traced],
        }

    def of_prompt(self, logprobs: Iterable[TokenLogprobs]) -> list[Json | None]:
        """By token id, the prompt's own token first; nothing is known of the first token."""
        return [None, *(self._by_id(own) for own in logprobs)]

    def _by_name(self, own: TokenLogprobs) -> dict[str, float]:
        """The likeliest tokens, and the one that came, which may be one more."""
        named = {self._name(token_id): logprob for token_id, logprob in self._top(own)}
        return named | {self._name(own.token_id): own.logprob}

    def _by_id(self, own: TokenLogprobs) -> Json:
        ranked = [(own.token_id, own.logprob, own.rank)]
        ranked += [(*top, place) for place, top in enumerate(self._top(own), start=1)]
        return {
            str(token_id): {
                "logprob": logprob,
                "rank": rank,
                "decoded_token": self._name(token_id),
            }
            for token_id, logprob, rank in ranked
        }

    def _top(self, own: TokenLogprobs) -> Iterable[tuple[int, float]]:
        return zip(own.top_ids[: self._num_top], own.top_logprobs[: self._num_top], strict=True)

    def _entry(self, token_id: int, logprob: float) -> Json:
        data = self._pieces[token_id]
        return {"token": self._name(token_id), "logprob": logprob, "bytes": list(data)}

    def _name(self, token_id: int) -> str:
        """Its text; where that is only a part of a character, its bytes in OpenAI's spelling."""
        data = self._pieces[token_id]
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
