"""What a request asks of single tokens' logits: a bias, and which tokens may not come next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from qoq.scheduler.request import SamplingParams


def apply_rules(logits: Tensor, sampling: SamplingParams, output: Sequence[int]) -> None:
    """Changes fp32 ``logits`` ``[V]`` of the token that shall follow ``output``."""
    if sampling.logit_bias:
        token_ids, bias = zip(*sampling.logit_bias, strict=True)
        logits[list(token_ids)] += torch.tensor(bias, device=logits.device)
    if sampling.allowed_token_ids is not None:
        allowed = list(sampling.allowed_token_ids)
        kept = logits[allowed]
        logits.fill_(-torch.inf)
        logits[allowed] = kept
    banned = list(_banned(sampling, output))
    if banned:
        _ban(logits, banned)


def _banned(sampling: SamplingParams, output: Sequence[int]) -> Iterator[int]:
    if len(output) < sampling.min_tokens:
        yield from sampling.stop_token_ids
    for *begun, last in sampling.bad_token_ids:
        if list(output[len(output) - len(begun) :]) == begun:
            yield last


def _ban(logits: Tensor, token_ids: list[int]) -> None:
    """A ban that would leave no token at all gives way: some token must come."""
    kept = logits[token_ids]
    logits[token_ids] = -torch.inf
    if logits.max() == -torch.inf:
        logits[token_ids] = kept
