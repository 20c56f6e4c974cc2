"""Settings of the engine, read once and handed down. No torch, so that the server can read it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """What to load and how much it may hold.

    ``model`` is a checkpoint folder. ``precision`` None keeps the checkpoint's own. The KV cache
    takes ``kv_cache_bytes``, or, where that is None, what ``max_num_seqs`` requests of
    ``max_model_len`` tokens need, bounded by half of the free memory. ``max_model_len`` None is
    the model's own limit. ``num_threads`` None is one a physical core.
    """

    model: Path
    precision: str | None = None
    max_model_len: int | None = None
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 512
    kv_cache_bytes: int | None = None
    enable_prefix_caching: bool = True
    num_threads: int | None = None
