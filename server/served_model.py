"""The model behind the API: its names, what it can take, and its tokenizer off the event loop."""

from __future__ import annotations

import asyncio
import time

from qoq.engine.protocol import EngineClient, EngineInfo
from qoq.server import answer
from qoq.server.config import ServerConfig
from qoq.server.errors import ApiError, unavailable
from qoq.server.limits import Limits
from qoq.server.tokenizer import Tokenizer

# Below this, tokenizing takes under 10 ms and is not worth a thread.
_MAX_CHARS_ON_LOOP = 16_384


class ServedModel:
    def __init__(self, engine: EngineClient, tokenizer: Tokenizer, config: ServerConfig) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._names = config.model_names
        self._max_num_seqs = config.engine.max_num_seqs
        self._started_s = int(time.time())

    def info(self) -> EngineInfo:
        """Raises ApiError (503) while there is no engine to serve."""
        health = self._engine.health()
        if not health.is_healthy:
            raise unavailable(health.cause or "The engine is not healthy.", "engine_dead")
        if not health.is_ready:
            raise unavailable(health.cause or "The model is still loading.", "engine_not_ready")
        return self._engine.info

    def limits(self) -> Limits:
        return Limits.of(self.info(), self._max_num_seqs)

    def eos_token_ids(self) -> list[int]:
        """What the checkpoint and its tokenizer say, together."""
        return sorted({*self.info().eos_token_ids, *self._tokenizer.eos_token_ids})

    def check_name(self, name: str | None) -> None:
        """Raises ApiError (404) unless it is one of ours; None is any."""
        if name is not None and name not in self._names:
            ours = ", ".join(f"'{name}'" for name in self._names)
            raise ApiError(
                f"There is no model '{name}' here; this server has {ours}.",
                status=404,
                param="model",
                code="model_not_found",
            )

    def describe(self) -> list[answer.Model]:
        """One entry a name."""
        max_model_len = self.info().max_model_len
        return [
            answer.Model(id=name, created=self._started_s, max_model_len=max_model_len)
            for name in self._names
        ]

    async def encode(self, texts: list[str], *, add_special_tokens: bool) -> list[list[int]]:
        def encode_all() -> list[list[int]]:
            encode = self._tokenizer.encode
            return [encode(text, add_special_tokens=add_special_tokens) for text in texts]

        if sum(map(len, texts)) <= _MAX_CHARS_ON_LOOP:
            return encode_all()
        return await asyncio.to_thread(encode_all)
