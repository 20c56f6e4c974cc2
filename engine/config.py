"""Settings of the engine, read once and handed down. No torch, so that the server can read it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

AT_LEAST_ONE = (
    "max_num_seqs",
    "max_num_batched_tokens",
    "steps_in_flight",
    "max_model_len",
    "num_threads",
)
CPU_KV_CACHE_BYTES = 2**30


def _setting(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """What to load and how much it may hold. ``model`` is a checkpoint folder.

    Each field but ``model`` is a flag of ``qoq serve``.
    """

    model: Path
    precision: str | None = _setting(
        None, "w4a8kv4, w8a8kv8, fp32, bf16 or fp16; default: the checkpoint's own, else w4a8kv4"
    )
    device: str = _setting("auto", "cuda, cpu, or auto: cuda where there is one")
    load_format: str = _setting(
        "auto",
        "auto: the checkpoint; dummy or dummy-per-channel: random weights of its shapes, or those "
        "in configs/shapes",
    )
    max_model_len: int | None = _setting(
        None,
        "longest prompt + output in tokens; default: the model's limit, or what the cache holds",
    )
    max_num_seqs: int = _setting(256, "requests that run at a time")
    max_num_batched_tokens: int | None = _setting(
        None, "tokens that one step runs at most; default: 512, or 2048 on a GPU"
    )
    kv_cache_bytes: int | None = _setting(
        None, "memory for the KV cache, like 4GiB; default: 1GiB, or what is left on a GPU"
    )
    gpu_memory_utilization: float = _setting(
        0.96,
        "how full the GPU's memory may get, other processes' share included; the rest is for what "
        "the driver takes and what fragments",
    )
    host_kv_cache_bytes: int | None = _setting(
        None,
        "host memory for KV that the GPU's memory cannot keep, like 16GiB, 0 for none; default: "
        "4GiB, a quarter of what is available where that is less",
    )
    enable_prefix_caching: bool = _setting(True, "reuse the KV of prompts that begin alike")
    num_threads: int | None = _setting(None, "CPU threads of the engine; default: one a core")
    steps_in_flight: int = _setting(2, "2 prepares the next step while one runs, 1 does not")
    stall_timeout_s: float = _setting(120.0, "a step that runs longer means an unhealthy engine")

    def __post_init__(self) -> None:
        if self.device not in ("auto", "cuda", "cpu"):
            raise ValueError(f"device: expected auto, cuda or cpu, got {self.device!r}")
        if self.load_format not in ("auto", "dummy", "dummy-per-channel"):
            raise ValueError(
                f"load_format: expected auto, dummy or dummy-per-channel, got {self.load_format!r}"
            )
        if not 0 < self.gpu_memory_utilization <= 1:
            raise ValueError(
                "gpu_memory_utilization: expected more than 0 and at most 1, got "
                f"{self.gpu_memory_utilization}"
            )
        for name in AT_LEAST_ONE:
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")

    def step_tokens(self, is_gpu: bool) -> int:
        """``max_num_batched_tokens``, or the device's default."""
        return self.max_num_batched_tokens or (2048 if is_gpu else 512)
