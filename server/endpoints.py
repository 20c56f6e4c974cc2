"""What each route does: one method a route."""

from __future__ import annotations

import asyncio
import importlib.metadata

from starlette.requests import Request
from starlette.responses import Response

from qoq.engine.protocol import EngineClient
from qoq.server import answer
from qoq.server.chat import ChatTemplate
from qoq.server.config import ServerConfig
from qoq.server.embeddings import Embeddings
from qoq.server.errors import unavailable
from qoq.server.generation import plan
from qoq.server.load import Load
from qoq.server.metrics import Metrics
from qoq.server.protocol import (
    ChatCompletionRequest,
    CompletionRequest,
    DetokenizeRequest,
    GenerationBody,
    TokenizeRequest,
    texts_of,
    token_lists_of,
)
from qoq.server.responses.endpoints import Responses
from qoq.server.responses.forward import Owners
from qoq.server.sampling import Sampling
from qoq.server.served_model import ServedModel
from qoq.server.stream import Answer, EventStream, until_client_goes
from qoq.server.structured.checker import GrammarChecker
from qoq.server.structured.constraint import Constraint, constraint_of
from qoq.server.tokenizer import Tokenizer
from qoq.server.tools.dialect import Dialect
from qoq.server.tools.speech import Speech


class Endpoints:
    def __init__(
        self,
        engine: EngineClient,
        tokenizer: Tokenizer,
        config: ServerConfig,
        load: Load,
        owners: Owners,
    ) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._template = ChatTemplate(tokenizer)
        self._model = ServedModel(engine, tokenizer, config)
        self._metrics = Metrics(engine, config.model_name)
        self._load = load
        self._keep_alive_s = config.keep_alive_s
        self._grammars = GrammarChecker(tokenizer)
        self._dialect = Dialect(tokenizer)
        self.responses = Responses(self._plan_chat, config.keep_alive_s, owners)
        self.embeddings = Embeddings(self._model, engine, self._metrics, config.pooling)

    async def chat(self, body: ChatCompletionRequest, request: Request) -> Response:
        return await self._send(body, await self._plan_chat(body), request)

    async def _plan_chat(self, body: ChatCompletionRequest) -> Answer:
        self._model.check_name(body.model)
        tools, extras = self._dialect.tools_for(body), body.chat_template_kwargs or {}
        text = self._template.render(body.messages, tools=tools, extras=extras)
        prompts = await self._model.encode([text], add_special_tokens=False)
        speech = self._dialect.speech(body, text)
        constraint = self._dialect.constraint(body, speech)
        return await self._plan(body, prompts, constraint, speech)

    async def complete(self, body: CompletionRequest, request: Request) -> Response:
        self._model.check_name(body.model)
        prompts = token_lists_of(body.prompt)
        if prompts is None:
            prompts = await self._model.encode(texts_of(body.prompt), add_special_tokens=True)
        return await self._send(body, await self._plan(body, prompts, constraint_of(body)), request)

    async def list_models(self) -> answer.ModelList:
        return answer.ModelList(data=self._model.describe())

    async def get_model(self, model_id: str) -> answer.Model:
        self._model.check_name(model_id)
        return next(model for model in self._model.describe() if model.id == model_id)

    async def tokenize(self, body: TokenizeRequest) -> answer.Tokens:
        self._model.check_name(body.model)
        if body.prompt is not None:
            text, adds_special_tokens = body.prompt, body.add_special_tokens is not False
        else:
            text = self._template.render(
                body.messages or [], add_generation_prompt=body.add_generation_prompt is not False
            )
            adds_special_tokens = bool(body.add_special_tokens)
        (tokens,) = await self._model.encode([text], add_special_tokens=adds_special_tokens)
        max_model_len = self._model.info().max_model_len
        return answer.Tokens(count=len(tokens), max_model_len=max_model_len, tokens=tokens)

    async def detokenize(self, body: DetokenizeRequest) -> answer.DetokenizedPrompt:
        self._model.check_name(body.model)
        self._model.limits().check_token_ids(body.tokens, "tokens")
        decode = self._tokenizer.decode
        text = await asyncio.to_thread(decode, body.tokens, skip_special_tokens=False)
        return answer.DetokenizedPrompt(prompt=text)

    async def tokenizer_info(self) -> answer.TokenizerInfo:
        info, named = self._model.info(), self._tokenizer.named_tokens
        return answer.TokenizerInfo(
            special_tokens=named,
            bos_token=named.get("bos_token"),
            eos_token=named.get("eos_token"),
            pad_token=named.get("pad_token"),
            bos_token_id=self._tokenizer.bos_token_id,
            eos_token_ids=self._model.eos_token_ids(),
            vocab_size=info.vocab_size,
            max_model_len=info.max_model_len,
            chat_template=self._tokenizer.chat_template,
        )

    async def load(self) -> answer.ServerLoad:
        return answer.ServerLoad(server_load=self._load.num_requests)

    async def health(self) -> answer.Status:
        health = self._engine.health()
        if not health.is_healthy:
            raise unavailable(health.cause or "The engine is not healthy.", "engine_dead")
        return answer.Status(status="ok")

    async def ready(self) -> answer.Status:
        self._model.info()
        return answer.Status(status="ready")

    async def version(self) -> answer.Version:
        return answer.Version(version=importlib.metadata.version("qoq"))

    async def metrics(self, request: Request) -> Response:
        page, content_type = self._metrics.exposition(request.headers.get("accept", ""))
        return Response(page, headers={"content-type": content_type})

    async def _plan(
        self,
        body: GenerationBody,
        prompts: list[list[int]],
        constraint: Constraint | None,
        speech: Speech | None = None,
    ) -> Answer:
        grammar = await self._grammars.check(constraint, self._model.info())
        limits = self._model.limits()
        sampling = Sampling(body, limits, self._tokenizer, self._model.eos_token_ids(), grammar)
        generation = plan(body, prompts, limits, sampling, speech)
        return Answer(generation, self._engine, self._tokenizer, self._metrics)

    async def _send(self, body: GenerationBody, outgoing: Answer, request: Request) -> Response:
        if body.stream:
            return EventStream(outgoing.events(), self._keep_alive_s)
        content = await until_client_goes(request.receive, outgoing.body())
        return Response(content, media_type="application/json")
