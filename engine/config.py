"""Settings of the engine, read once and handed down. No torch, so that the server can read it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """What to load and how much it may hold.

    ``model`` is a checkpoint folder. ``precision`` None keeps the checkpoint's own.
    ``max_model_len`` None is the model's own limit, or what the KV cache holds if that is less.
    ``num_threads`` None is one a core. A step runs at most ``max_num_batched_tokens`` tokens of
    ``max_num_seqs`` requests. With ``steps_in_flight`` 2 the next step is prepared while one runs.
    A step that runs longer than ``stall_timeout_s`` makes the engine unhealthy.
    """

    model: Path
    precision: str | None = None
    max_model_len: int | None = None
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 512
    kv_cache_bytes: int = 2**30
    enable_prefix_caching: bool = True
    num_threads: int | None = None
    steps_in_flight: int = 2
    stall_timeout_s: float = 120.0
