"""A body that fits the wire format -> engine requests that fit the model."""

from __future__ import annotations

import secrets
import time
import uuid
from dataclasses import dataclass

from qoq.engine.protocol import GenerateRequest, SamplingParams
from qoq.server.errors import ApiError
from qoq.server.limits import Limits
from qoq.server.protocol import ChatCompletionRequest, GenerationBody

_DEFAULT_COMPLETION_TOKENS = 16
_SEED_MASK = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """What one HTTP request asks of the engine, valid: ``n`` requests for each prompt, in order.

    The place of a request is the index of its choice.
    """

    id: str
    created_s: int
    requests: list[GenerateRequest]
    n: int
    num_prompt_tokens: int
    stops: tuple[str, ...]
    is_chat: bool
    include_usage: bool


def plan(
    body: GenerationBody, prompts: list[list[int]], limits: Limits, eos_token_ids: tuple[int, ...]
) -> Generation:
    """Raises ApiError (400) naming the field that asks for what cannot be."""
    is_chat = isinstance(body, ChatCompletionRequest)
    n = body.n or 1
    limits.check_num_choices(n, len(prompts))
    for prompt in prompts:
        limits.check_prompt(prompt, "messages" if is_chat else "prompt")
    generation_id = f"{'chatcmpl' if is_chat else 'cmpl'}-{uuid.uuid4().hex}"
    options = body.stream_options
    return Generation(
        id=generation_id,
        created_s=int(time.time()),
        requests=_requests(generation_id, body, prompts, limits, eos_token_ids),
        n=n,
        num_prompt_tokens=sum(map(len, prompts)),
        stops=_stops(body),
        is_chat=is_chat,
        include_usage=options is not None and bool(options.include_usage),
    )


def _requests(
    generation_id: str,
    body: GenerationBody,
    prompts: list[list[int]],
    limits: Limits,
    eos_token_ids: tuple[int, ...],
) -> list[GenerateRequest]:
    """A choice's seed depends on its place among the ``n`` alone, not on the other prompts."""
    arrival_s = time.monotonic()
    seed = secrets.randbits(63) if body.seed is None else body.seed
    stop_token_ids = () if body.ignore_eos else eos_token_ids
    n = body.n or 1
    return [
        GenerateRequest(
            request_id=f"{generation_id}-{place * n + choice}",
            prompt_token_ids=prompt,
            sampling=_sampling(
                body,
                max_tokens=_max_tokens(body, len(prompt), limits),
                seed=(seed + choice) & _SEED_MASK,
                stop_token_ids=stop_token_ids,
            ),
            priority=body.priority or 0,
            arrival_s=arrival_s,
        )
        for place, prompt in enumerate(prompts)
        for choice in range(n)
    ]


def _sampling(
    body: GenerationBody, *, max_tokens: int, seed: int, stop_token_ids: tuple[int, ...]
) -> SamplingParams:
    return SamplingParams(
        max_tokens=max_tokens,
        temperature=_or(body.temperature, 1.0),
        top_k=max(body.top_k or 0, 0),
        top_p=_or(body.top_p, 1.0),
        min_p=_or(body.min_p, 0.0),
        presence_penalty=_or(body.presence_penalty, 0.0),
        frequency_penalty=_or(body.frequency_penalty, 0.0),
        repetition_penalty=_or(body.repetition_penalty, 1.0),
        seed=seed,
        stop_token_ids=stop_token_ids,
    )


def _max_tokens(body: GenerationBody, num_prompt_tokens: int, limits: Limits) -> int:
    """As asked, or refused; where nothing was asked, what OpenAI gives and the context holds."""
    room = limits.max_model_len - num_prompt_tokens
    param, asked = _asked_max_tokens(body)
    if asked is not None:
        limits.check_max_tokens(num_prompt_tokens, asked, param)
        return asked
    is_chat = isinstance(body, ChatCompletionRequest)
    return room if is_chat else min(_DEFAULT_COMPLETION_TOKENS, room)


def _asked_max_tokens(body: GenerationBody) -> tuple[str, int | None]:
    if not isinstance(body, ChatCompletionRequest) or body.max_completion_tokens is None:
        return "max_tokens", body.max_tokens
    if body.max_tokens not in (None, body.max_completion_tokens):
        raise ApiError(
            "max_tokens and max_completion_tokens contradict each other; set one of them.",
            param="max_tokens",
            code="invalid_value",
        )
    return "max_completion_tokens", body.max_completion_tokens


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _stops(body: GenerationBody) -> tuple[str, ...]:
    if body.stop is None:
        return ()
    return (body.stop,) if isinstance(body.stop, str) else tuple(body.stop)
