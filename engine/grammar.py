"""Grammars that a request's tokens must follow: compiled once, then a matcher for each request.

A grammar is text in one of llguidance's forms: Lark, or the JSON that its ``grammar_from_*`` makes.
Compiling takes 0.1 to 10 ms and at most about 0.1 s for the largest text taken; a mask takes some
20 us (49 152 tokens, one CPU core).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

MAX_GRAMMAR_CHARS = 2**16
_MAX_COMPILED = 128
_LIMITS = LLParserLimits(verbose_errors=False)


class GrammarError(ValueError):
    """A grammar that cannot be used; the message says where it is wrong or what is too large."""


class Matcher:
    """Where one request stands in its grammar. It advances by the request's own tokens alone."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    @property
    def has_failed(self) -> bool:
        """Whether a token was refused or a limit was hit: there is no way on."""
        return self._matcher.is_error()

    def advance(self, token_ids: Sequence[int]) -> None:
        for token_id in token_ids:  # at the end, EOS is taken one by one only
            self._matcher.consume_token(token_id)

    def write_mask(self, address: int, num_bytes: int) -> None:
        """Whether each token may come next: a bit, lowest first, in 32-bit words at ``address``.

        A complete text allows EOS, and so does a matcher that has failed.
        """
        self._matcher.unsafe_compute_mask_ptr(address, num_bytes)


class Grammars:
    """Compiles for one tokenizer and keeps what was used last. Safe to call from any thread.

    ``tokenizer`` is the content of ``tokenizer.json`` or a path to it, read at the first grammar.
    """

    def __init__(
        self, tokenizer: str | Path, vocab_size: int, eos_token_ids: Sequence[int]
    ) -> None:
        self._source = tokenizer
        self._vocab_size = vocab_size
        self._eos_token_ids = list(eos_token_ids)
        self._tokenizer: LLTokenizer | None = None
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()
        self._lock = threading.Lock()

    def compile(self, grammar: str) -> None:
        """Raises GrammarError. Other threads run meanwhile."""
        self._find(grammar)

    def matcher(self, grammar: str, token_ids: Sequence[int] = ()) -> Matcher:
        """At the start of the grammar, or after the output ``token_ids``. Raises GrammarError."""
        matcher = Matcher(self._find(grammar).deep_copy())
        matcher.advance(token_ids)
        return matcher

    def _find(self, grammar: str) -> LLMatcher:
        with self._lock:
            if grammar in self._compiled:
                self._compiled.move_to_end(grammar)
                return self._compiled[grammar]
        # Without the lock, for which the step loop would wait. Two threads may do it twice.
        compiled = self._compile(grammar)
        with self._lock:
            self._compiled[grammar] = compiled
            if len(self._compiled) > _MAX_COMPILED:
                self._compiled.popitem(last=False)
        return compiled

    def _compile(self, grammar: str) -> LLMatcher:
        if len(grammar) > MAX_GRAMMAR_CHARS:
            raise GrammarError(
                f"the grammar has {len(grammar)} characters, more than {MAX_GRAMMAR_CHARS}"
            )
        if self._tokenizer is None:
            self._tokenizer = self._load()
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0, limits=_LIMITS)
        if matcher.is_error():
            raise GrammarError(" ".join(matcher.get_error().split()))
        return matcher

    def _load(self) -> LLTokenizer:
        if not self._eos_token_ids:
            raise GrammarError("this model has no end-of-sequence token to end a grammar with")
        if isinstance(self._source, Path) and not self._source.is_file():
            raise GrammarError(f"{self._source} is missing, and grammars are made of its tokens")
        try:
            return LLTokenizer(
                str(self._source), n_vocab=self._vocab_size, eos_token=self._eos_token_ids
            )
        except ValueError as error:
            raise GrammarError(f"this tokenizer cannot be used with grammars: {error}") from error
