"""The application: which URL leads where, and what stands before all of them."""

from __future__ import annotations

import importlib.metadata
from typing import Any

from fastapi import FastAPI

from qoq.engine.protocol import EngineClient
from qoq.server import answer, errors
from qoq.server.auth import ApiKeyMiddleware
from qoq.server.body_limit import BodyLimitMiddleware
from qoq.server.config import ServerConfig
from qoq.server.endpoints import Endpoints
from qoq.server.json_body import JsonBodyMiddleware
from qoq.server.load import Load, LoadMiddleware
from qoq.server.openapi import EVENT_STREAM, TEXT, App, responses
from qoq.server.request_id import RequestIdMiddleware
from qoq.server.responses.answer import DeletedResponse, ModelResponse
from qoq.server.responses.forward import Owners
from qoq.server.tokenizer import Tokenizer

_RESPONSE = "/v1/responses/{response_id}"


def build_app(
    engine: EngineClient,
    tokenizer: Tokenizer,
    config: ServerConfig,
    owners: Owners | None = None,
) -> FastAPI:
    """Serves ``engine``, which may still be loading. Raises TokenizerError for a bad template.

    ``owners`` are the API processes, where there are several.
    """
    app = App(
        title="qoq",
        version=importlib.metadata.version("qoq"),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        strict_content_type=False,
    )
    errors.install(app)
    load = Load(config.max_requests)
    _add_routes(app, Endpoints(engine, tokenizer, config, load, owners or Owners()))
    # The last added is the outermost.
    app.add_middleware(JsonBodyMiddleware)
    app.add_middleware(BodyLimitMiddleware, max_body_bytes=config.max_body_bytes)
    app.add_middleware(LoadMiddleware, load=load)
    if config.api_keys:
        app.add_middleware(ApiKeyMiddleware, api_keys=config.api_keys)
    app.add_middleware(RequestIdMiddleware)
    return app


def _add_routes(app: FastAPI, endpoints: Endpoints) -> None:
    def add(method: str, path: str, endpoint: Any, **success: Any) -> None:
        declared = responses(**success)
        app.add_api_route(path, endpoint, methods=[method], response_model=None, responses=declared)

    def add_generation(path: str, endpoint: Any, model: type) -> None:
        add("POST", path, endpoint, model=model, content=EVENT_STREAM)

    add_generation("/v1/chat/completions", endpoints.chat, answer.ChatCompletion)
    add_generation("/v1/completions", endpoints.complete, answer.Completion)
    add_generation("/v1/responses", endpoints.responses.create, ModelResponse)
    add("GET", _RESPONSE, endpoints.responses.retrieve, model=ModelResponse)
    add("DELETE", _RESPONSE, endpoints.responses.delete, model=DeletedResponse)
    add("POST", f"{_RESPONSE}/cancel", endpoints.responses.cancel, model=ModelResponse)
    add("POST", "/v1/embeddings", endpoints.embeddings.create, model=answer.EmbeddingList)
    add("GET", "/v1/models", endpoints.list_models, model=answer.ModelList)
    add("GET", "/v1/models/{model_id:path}", endpoints.get_model, model=answer.Model)
    add("POST", "/tokenize", endpoints.tokenize, model=answer.Tokens)
    add("POST", "/detokenize", endpoints.detokenize, model=answer.DetokenizedPrompt)
    add("GET", "/tokenizer_info", endpoints.tokenizer_info, model=answer.TokenizerInfo)
    add("GET", "/load", endpoints.load, model=answer.ServerLoad)
    add("GET", "/health", endpoints.health, model=answer.Status)
    add("GET", "/ready", endpoints.ready, model=answer.Status)
    add("GET", "/version", endpoints.version, model=answer.Version)
    add("GET", "/metrics", endpoints.metrics, content={"text/plain": TEXT})
