"""What a body says of sampling -> the engine's parameters, checked against the model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from qoq.engine.protocol import SamplingParams
from qoq.server.errors import ApiError
from qoq.server.limits import Limits
from qoq.server.protocol import ChatCompletionRequest, CompletionRequest, GenerationBody
from qoq.server.tokenizer import Tokenizer

_DEFAULT_COMPLETION_TOKENS = 16


class Sampling:
    """The parameters that all choices of a request share; ``params`` adds what they do not.

    Raises ApiError (400) naming the field that asks for what cannot be.
    """

    def __init__(
        self,
        body: GenerationBody,
        limits: Limits,
        tokenizer: Tokenizer,
        eos_token_ids: Iterable[int],
        grammar: str | None = None,
    ) -> None:
        self._body = body
        self._limits = limits
        for field in ("stop_token_ids", "allowed_token_ids"):
            limits.check_token_ids(getattr(body, field) or [], field)
        bias = {int(token_id): value for token_id, value in (body.logit_bias or {}).items()}
        limits.check_token_ids(list(bias), "logit_bias")
        allowed = body.allowed_token_ids
        # A grammar that is complete allows nothing but the end.
        eos = () if body.ignore_eos and grammar is None else tuple(eos_token_ids)
        self._shared = SamplingParams(
            max_tokens=0,
            temperature=_or(body.temperature, 1.0),
            top_k=max(body.top_k or 0, 0),
            top_p=_or(body.top_p, 1.0),
            min_p=_or(body.min_p, 0.0),
            presence_penalty=_or(body.presence_penalty, 0.0),
            frequency_penalty=_or(body.frequency_penalty, 0.0),
            repetition_penalty=_or(body.repetition_penalty, 1.0),
            stop_token_ids=tuple(dict.fromkeys((*eos, *(body.stop_token_ids or ())))),
            min_tokens=body.min_tokens or 0,
            logit_bias=tuple(bias.items()),
            allowed_token_ids=None if allowed is None else tuple(dict.fromkeys(allowed)),
            bad_token_ids=_bad_token_ids(body.bad_words or [], tokenizer),
            logprobs=_logprobs(body),
            prompt_logprobs=_prompt_logprobs(body),
            grammar=grammar,
        )

    def params(self, num_prompt_tokens: int, seed: int) -> SamplingParams:
        max_tokens = self._max_tokens(num_prompt_tokens)
        if self._shared.min_tokens > max_tokens:
            raise ApiError(
                f"Invalid 'min_tokens': {self._shared.min_tokens} is more than the {max_tokens} "
                "tokens that the answer may have.",
                param="min_tokens",
                code="integer_above_max_value",
            )
        return replace(self._shared, max_tokens=max(max_tokens, 1), seed=seed)

    def _max_tokens(self, num_prompt_tokens: int) -> int:
        """As asked, or refused; where nothing was asked, what OpenAI gives and the model holds."""
        room = self._limits.max_model_len - num_prompt_tokens
        param, asked = asked_max_tokens(self._body)
        if asked is not None:
            self._limits.check_max_tokens(num_prompt_tokens, asked, param)
            return asked
        is_chat = isinstance(self._body, ChatCompletionRequest)
        return room if is_chat else min(_DEFAULT_COMPLETION_TOKENS, room)


def asked_max_tokens(body: GenerationBody) -> tuple[str, int | None]:
    if not isinstance(body, ChatCompletionRequest) or body.max_completion_tokens is None:
        return "max_tokens", body.max_tokens
    if body.max_tokens not in (None, body.max_completion_tokens):
        raise ApiError(
            "max_tokens and max_completion_tokens contradict each other; set one of them.",
            param="max_tokens",
            code="invalid_value",
        )
    return "max_completion_tokens", body.max_completion_tokens


def num_logprobs(body: GenerationBody) -> int | None:
    """How many of each token's likeliest rivals the answer shows; None shows no logprobs."""
    if isinstance(body, ChatCompletionRequest):
        return (body.top_logprobs or 0) if body.logprobs else None
    assert isinstance(body, CompletionRequest)
    return body.logprobs


def _logprobs(body: GenerationBody) -> int | None:
    """``best_of`` ranks by them, also where they are not shown."""
    is_ranked = isinstance(body, CompletionRequest) and (body.best_of or 1) > 1
    shown = num_logprobs(body)
    return 0 if shown is None and is_ranked else shown


def _prompt_logprobs(body: GenerationBody) -> int | None:
    """``echo`` shows the prompt's beside the output's."""
    asked = [body.prompt_logprobs]
    if isinstance(body, CompletionRequest) and body.echo:
        asked.append(body.logprobs)
    return max((count for count in asked if count is not None), default=None)


def _bad_token_ids(words: list[str], tokenizer: Tokenizer) -> tuple[tuple[int, ...], ...]:
    """A word has other tokens at the start of a text than after a space."""
    spellings = (spelling for word in words for spelling in (word, " " + word.lstrip(" ")))
    runs = (tokenizer.encode(spelling, add_special_tokens=False) for spelling in spellings)
    return tuple(dict.fromkeys(tuple(run) for run in runs if run))


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
