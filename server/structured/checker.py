"""Compiles a request's grammar before the engine sees it, beside the event loop and not for long.

The engine compiles it again, in its own process; what passes here passes there in the same time.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from qoq.engine.grammar import GrammarError, Grammars
from qoq.engine.protocol import EngineInfo
from qoq.server.structured.constraint import Constraint, invalid_grammar
from qoq.server.tokenizer import Tokenizer

TIMEOUT_S = 5.0
_NUM_THREADS = 2


class GrammarChecker:
    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._threads = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="grammar")
        self._grammars: Grammars | None = None

    async def check(self, constraint: Constraint | None, info: EngineInfo) -> str | None:
        """The grammar's text. Raises ApiError (400) naming the field and what is wrong."""
        if constraint is None:
            return None
        if self._grammars is None:
            self._grammars = Grammars(
                self._tokenizer.to_json(), info.vocab_size, info.eos_token_ids
            )
        text = constraint.grammar.text
        loop = asyncio.get_running_loop()
        compiling = loop.run_in_executor(self._threads, self._grammars.compile, text)
        try:
            await asyncio.wait_for(compiling, TIMEOUT_S)
        except TimeoutError:
            reason = f"compiling it takes more than {TIMEOUT_S:.0f} s; simplify it"
            raise invalid_grammar(constraint.param, reason) from None
        except GrammarError as error:
            raise invalid_grammar(constraint.param, str(error)) from error
        return text
