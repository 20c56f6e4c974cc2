"""``/v1/embeddings``: prompts -> vectors of length 1, pooled from the model's hidden states."""

from __future__ import annotations

import asyncio
import math
import struct
import time
import uuid
from base64 import b64encode
from contextlib import aclosing

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from qoq.engine.protocol import EngineClient, GenerateRequest, Pooling, SamplingParams
from qoq.server.builders import Json
from qoq.server.choice import outputs_of
from qoq.server.errors import ApiError
from qoq.server.metrics import Metrics
from qoq.server.protocol import EmbeddingRequest, texts_of, token_lists_of
from qoq.server.served_model import ServedModel
from qoq.server.stream import until_client_goes


class Embeddings:
    def __init__(
        self, model: ServedModel, engine: EngineClient, metrics: Metrics, pooling: Pooling
    ) -> None:
        """``pooling`` is for requests that do not say."""
        self._model = model
        self._engine = engine
        self._metrics = metrics
        self._pooling = pooling

    async def create(self, body: EmbeddingRequest, request: Request) -> Response:
        self._model.check_name(body.model)
        prompts = token_lists_of(body.input)
        if prompts is None:
            prompts = await self._model.encode(texts_of(body.input), add_special_tokens=True)
        limits = self._model.limits()
        limits.check_num_choices(1, len(prompts), "input")
        for prompt in prompts:
            limits.check_prompt(prompt, "input")
        pooling = self._pooling if body.pooling is None else Pooling(body.pooling)
        embeddings = await until_client_goes(request.receive, self._embed_all(prompts, pooling))
        num_tokens = sum(map(len, prompts))
        self._metrics.prompt_tokens.inc(num_tokens)
        content = {
            "object": "list",
            "model": body.model,
            "data": [_entry(place, e, body) for place, e in enumerate(embeddings)],
            "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens},
        }
        return Response(msgspec.json.encode(content), media_type="application/json")

    async def _embed_all(self, prompts: list[list[int]], pooling: Pooling) -> list[list[float]]:
        """The first failure, or the client's leaving, ends them all."""
        tasks = [asyncio.create_task(self._embed(prompt, pooling)) for prompt in prompts]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _embed(self, prompt: list[int], pooling: Pooling) -> list[float]:
        request = GenerateRequest(
            request_id=f"embd-{uuid.uuid4().hex}",
            prompt_token_ids=prompt,
            sampling=SamplingParams(max_tokens=1, temperature=0.0, pooling=pooling),
            arrival_s=time.monotonic(),
        )
        async with aclosing(outputs_of(self._engine, request)) as outputs:
            output = await anext(outputs)
        assert output.extras is not None and output.extras.embedding is not None
        return output.extras.embedding


def _entry(index: int, embedding: list[float], body: EmbeddingRequest) -> Json:
    if body.dimensions is not None:
        embedding = _shorten(embedding, body.dimensions)
    is_packed = body.encoding_format == "base64"
    return {
        "object": "embedding",
        "index": index,
        "embedding": _pack(embedding) if is_packed else embedding,
    }


def _shorten(embedding: list[float], dimensions: int) -> list[float]:
    """The first ``dimensions`` entries, of length 1 again."""
    if dimensions > len(embedding):
        raise ApiError(
            f"Invalid 'dimensions': this model's embeddings have {len(embedding)}.",
            param="dimensions",
            code="integer_above_max_value",
        )
    kept = embedding[:dimensions]
    length = math.hypot(*kept) or 1.0
    return [value / length for value in kept]


def _pack(embedding: list[float]) -> str:
    """Little-endian float32 in base64, which official clients ask for."""
    return b64encode(struct.pack(f"<{len(embedding)}f", *embedding)).decode()
