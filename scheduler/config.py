"""Limits of the scheduler, read once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerConfig:
    """``num_blocks`` KV blocks of ``block_size`` tokens, and what one step may run.

    ``max_num_seqs`` bounds the running requests, ``max_num_batched_tokens`` the tokens of a step,
    ``max_model_len`` prompt plus output of one request.
    """

    num_blocks: int
    block_size: int
    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    enable_prefix_caching: bool = True
