"""A body that fits the wire format -> engine requests that fit the model."""

from __future__ import annotations

import secrets
import time
import uuid
from dataclasses import dataclass

from qoq.engine.protocol import GenerateRequest
from qoq.server.errors import ApiError
from qoq.server.limits import Limits
from qoq.server.protocol import ChatCompletionRequest, CompletionRequest, GenerationBody
from qoq.server.sampling import Sampling, asked_max_tokens, num_logprobs
from qoq.server.token_text import TextOptions
from qoq.server.tools.speech import Speech

_SEED_MASK = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """What one HTTP request asks of the engine, valid: ``best_of`` requests a prompt, in order.

    The best ``n`` of them are shown. Where they are all, the place of a request is the index of
    its choice. ``timeout_s`` counts from the requests' arrival. ``speech`` None: all is content.
    """

    id: str
    created_s: int
    model_name: str
    requests: list[GenerateRequest]
    n: int
    best_of: int
    num_prompt_tokens: int
    text: TextOptions
    is_chat: bool
    include_usage: bool
    continuous_usage: bool
    returns_token_ids: bool
    num_logprobs: int | None
    num_prompt_logprobs: int | None
    timeout_s: float | None
    speech: Speech | None


def plan(
    body: GenerationBody,
    prompts: list[list[int]],
    limits: Limits,
    sampling: Sampling,
    speech: Speech | None = None,
) -> Generation:
    """Raises ApiError (400) naming the field that asks for what cannot be."""
    is_chat = isinstance(body, ChatCompletionRequest)
    n, best_of = body.n or 1, _best_of(body)
    limits.check_num_choices(best_of, len(prompts))
    prompts = [_truncate(prompt, body, limits) for prompt in prompts]
    for prompt in prompts:
        limits.check_prompt(prompt, "messages" if is_chat else "prompt")
    generation_id = f"{'chatcmpl' if is_chat else 'cmpl'}-{uuid.uuid4().hex}"
    options = body.stream_options
    return Generation(
        id=generation_id,
        created_s=int(time.time()),
        model_name=body.model,
        requests=_requests(generation_id, body, prompts, best_of, sampling),
        n=n,
        best_of=best_of,
        num_prompt_tokens=sum(map(len, prompts)),
        text=_text_options(body),
        is_chat=is_chat,
        include_usage=options is not None and bool(options.include_usage),
        continuous_usage=options is not None and bool(options.continuous_usage_stats),
        returns_token_ids=bool(body.return_token_ids),
        num_logprobs=num_logprobs(body),
        num_prompt_logprobs=body.prompt_logprobs,
        timeout_s=body.timeout,
        speech=speech,
    )


def _requests(
    generation_id: str,
    body: GenerationBody,
    prompts: list[list[int]],
    count: int,
    sampling: Sampling,
) -> list[GenerateRequest]:
    """A choice's seed depends on its place among the ``count`` alone, not on the other prompts."""
    arrival_s = time.monotonic()
    seed = secrets.randbits(63) if body.seed is None else body.seed
    return [
        GenerateRequest(
            request_id=f"{generation_id}-{place * count + choice}",
            prompt_token_ids=prompt,
            sampling=sampling.params(len(prompt), (seed + choice) & _SEED_MASK),
            priority=body.priority or 0,
            arrival_s=arrival_s,
            cache_salt=body.cache_salt,
        )
        for place, prompt in enumerate(prompts)
        for choice in range(count)
    ]


def _best_of(body: GenerationBody) -> int:
    n, best_of = body.n or 1, getattr(body, "best_of", None) or 1
    if best_of > 1 and body.stream:
        raise _invalid("best_of", "it cannot be more than 1 when stream is true")
    if 1 < best_of < n:
        raise _invalid("best_of", f"it must be at least n = {n}")
    return max(n, best_of)


def _truncate(prompt: list[int], body: GenerationBody, limits: Limits) -> list[int]:
    """The last ``truncate_prompt_tokens``; -1 keeps as many as leave room for the answer."""
    count = body.truncate_prompt_tokens
    if count is None:
        return prompt
    if count < 0:
        count = max(limits.max_model_len - (asked_max_tokens(body)[1] or 1), 1)
    return prompt[-count:]


def _text_options(body: GenerationBody) -> TextOptions:
    is_chat = isinstance(body, ChatCompletionRequest)
    echo = isinstance(body, CompletionRequest) and bool(body.echo)
    if body.max_tokens == 0 and not echo:
        raise _invalid("max_tokens", "0 asks for nothing unless echo is true")
    return TextOptions(
        stops=_stops(body),
        includes_stop=bool(body.include_stop_str_in_output),
        min_tokens=body.min_tokens or 0,
        echo=echo,
        has_output=body.max_tokens != 0,
        continues_prompt=not is_chat,
        traces_tokens=num_logprobs(body) is not None,
    )


def _stops(body: GenerationBody) -> tuple[str, ...]:
    if body.stop is None:
        return ()
    return (body.stop,) if isinstance(body.stop, str) else tuple(body.stop)


def _invalid(param: str, complaint: str) -> ApiError:
    return ApiError(f"Invalid '{param}': {complaint}.", param=param, code="invalid_value")
