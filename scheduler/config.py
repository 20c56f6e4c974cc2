"""Limits of the scheduler, read once."""

from __future__ import annotations

from dataclasses import dataclass

_AT_LEAST_ONE = (
    "num_blocks",
    "block_size",
    "max_num_seqs",
    "max_num_batched_tokens",
    "max_model_len",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerConfig:
    """``num_blocks`` KV blocks of ``block_size`` tokens, and what one step may run.

    ``max_num_seqs`` bounds the running requests, ``max_num_batched_tokens`` the tokens of a step,
    ``max_model_len`` prompt plus output of one request. Raises ValueError
    for a limit below 1, under which no request could ever run, and for less than no host block.

    ``separates_output`` is for devices whose kernels for prompt and output tokens do not sum in the
    same order: a request that resumes after a preemption computes its output as it came, one token
    a step, and output is not shared as a prefix of other requests.

    ``num_host_blocks`` blocks of host memory take what a preempted request has computed and what
    the prefix cache gives up; 0 for none, so that both are computed again.
    """

    num_blocks: int
    block_size: int
    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    num_host_blocks: int = 0
    enable_prefix_caching: bool = True
    separates_output: bool = False

    def __post_init__(self) -> None:
        for name in _AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; set it to 1 or more")
        if self.num_host_blocks < 0:
            raise ValueError(f"num_host_blocks is {self.num_host_blocks}; set it to 0 or more")
