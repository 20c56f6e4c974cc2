"""What each route does: one method a route."""

from __future__ import annotations

import asyncio
import importlib.metadata
import time

from starlette.requests import Request
from starlette.responses import Response

from qoq.engine.protocol import EngineClient, EngineInfo
from qoq.server import answer
from qoq.server.chat import ChatTemplate
from qoq.server.config import ServerConfig
from qoq.server.errors import ApiError, unavailable
from qoq.server.generation import plan
from qoq.server.limits import Limits
from qoq.server.metrics import Metrics
from qoq.server.protocol import (
    ChatCompletionRequest,
    CompletionRequest,
    DetokenizeRequest,
    GenerationBody,
    TokenizeRequest,
)
from qoq.server.stream import Answer, EventStream, until_client_goes
from qoq.server.tokenizer import Tokenizer

# Below this, tokenizing takes under 10 ms and is not worth a thread.
_MAX_CHARS_ON_LOOP = 16_384


class Endpoints:
    def __init__(self, engine: EngineClient, tokenizer: Tokenizer, config: ServerConfig) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._config = config
        self._template = ChatTemplate(tokenizer)
        self._metrics = Metrics(engine, config.model_name)
        self._started_s = int(time.time())

    async def chat(self, body: ChatCompletionRequest, request: Request) -> Response:
        self._check_model(body.model)
        text = self._template.render(body.messages)
        prompts = await self._encode([text], add_special_tokens=False)
        return await self._answer(body, prompts, request)

    async def complete(self, body: CompletionRequest, request: Request) -> Response:
        self._check_model(body.model)
        prompts = body.token_lists
        if prompts is None:
            prompts = await self._encode(body.texts, add_special_tokens=True)
        return await self._answer(body, prompts, request)

    async def list_models(self) -> answer.ModelList:
        return answer.ModelList(data=[self._model()])

    async def get_model(self, model_id: str) -> answer.Model:
        self._check_model(model_id)
        return self._model()

    async def tokenize(self, body: TokenizeRequest) -> answer.Tokens:
        self._check_model(body.model)
        if body.prompt is not None:
            text, adds_special_tokens = body.prompt, body.add_special_tokens is not False
        else:
            text = self._template.render(
                body.messages or [], add_generation_prompt=body.add_generation_prompt is not False
            )
            adds_special_tokens = bool(body.add_special_tokens)
        (tokens,) = await self._encode([text], add_special_tokens=adds_special_tokens)
        max_model_len = self._info().max_model_len
        return answer.Tokens(count=len(tokens), max_model_len=max_model_len, tokens=tokens)

    async def detokenize(self, body: DetokenizeRequest) -> answer.DetokenizedPrompt:
        self._check_model(body.model)
        self._limits().check_token_ids(body.tokens, "tokens")
        decode = self._tokenizer.decode
        text = await asyncio.to_thread(decode, body.tokens, skip_special_tokens=False)
        return answer.DetokenizedPrompt(prompt=text)

    async def health(self) -> answer.Status:
        health = self._engine.health()
        if not health.is_healthy:
            raise unavailable(health.cause or "The engine is not healthy.", "engine_dead")
        return answer.Status(status="ok")

    async def ready(self) -> answer.Status:
        self._info()
        return answer.Status(status="ready")

    async def version(self) -> answer.Version:
        return answer.Version(version=importlib.metadata.version("qoq"))

    async def metrics(self, request: Request) -> Response:
        page, content_type = self._metrics.exposition(request.headers.get("accept", ""))
        return Response(page, headers={"content-type": content_type})

    async def _answer(
        self, body: GenerationBody, prompts: list[list[int]], request: Request
    ) -> Response:
        eos_token_ids = {*self._info().eos_token_ids, *self._tokenizer.eos_token_ids}
        generation = plan(body, prompts, self._limits(), tuple(sorted(eos_token_ids)))
        outgoing = Answer(
            generation,
            self._engine,
            self._tokenizer.pieces,
            self._metrics,
            self._config.model_name,
        )
        if body.stream:
            return EventStream(outgoing.events())
        content = await until_client_goes(request.receive, outgoing.body())
        return Response(content, media_type="application/json")

    async def _encode(self, texts: list[str], *, add_special_tokens: bool) -> list[list[int]]:
        def encode_all() -> list[list[int]]:
            encode = self._tokenizer.encode
            return [encode(text, add_special_tokens=add_special_tokens) for text in texts]

        if sum(map(len, texts)) <= _MAX_CHARS_ON_LOOP:
            return encode_all()
        return await asyncio.to_thread(encode_all)

    def _info(self) -> EngineInfo:
        """Raises ApiError (503) while there is no engine to serve."""
        health = self._engine.health()
        if not health.is_healthy:
            raise unavailable(health.cause or "The engine is not healthy.", "engine_dead")
        if not health.is_ready:
            raise unavailable(health.cause or "The model is still loading.", "engine_not_ready")
        return self._engine.info

    def _limits(self) -> Limits:
        return Limits.of(self._info(), self._config.engine.max_num_seqs)

    def _model(self) -> answer.Model:
        return answer.Model(
            id=self._config.model_name,
            created=self._started_s,
            max_model_len=self._info().max_model_len,
        )

    def _check_model(self, model: str | None) -> None:
        if model is not None and model != self._config.model_name:
            raise ApiError(
                f"There is no model '{model}' here; this server has '{self._config.model_name}'.",
                status=404,
                param="model",
                code="model_not_found",
            )
