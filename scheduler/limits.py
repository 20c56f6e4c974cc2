"""Which requests could never run, however long they waited."""

from __future__ import annotations

from qoq.scheduler.config import SchedulerConfig
from qoq.scheduler.request import Request


def check_fits(request: Request, config: SchedulerConfig) -> None:
    """Raises ValueError, naming the field and what to change, if the request can never run."""
    num_prompt, max_tokens = len(request.prompt_token_ids), request.sampling.max_tokens
    if num_prompt == 0:
        raise ValueError("prompt_token_ids is empty; give at least one token")
    if max_tokens < 1:
        raise ValueError(f"max_tokens is {max_tokens}; ask for at least one token")
    length = f"prompt_token_ids ({num_prompt}) and max_tokens ({max_tokens})"
    if num_prompt + max_tokens > config.max_model_len:
        raise ValueError(
            f"{length} together exceed max_model_len ({config.max_model_len}); "
            "shorten the prompt or lower max_tokens"
        )
    # The last token is sampled but never computed, so it needs no place.
    num_slots = config.num_blocks * config.block_size
    if num_prompt + max_tokens - 1 > num_slots:
        raise ValueError(
            f"{length} do not fit the {num_slots} tokens that the KV cache holds; "
            "shorten the prompt, lower max_tokens or give the KV cache more memory"
        )
