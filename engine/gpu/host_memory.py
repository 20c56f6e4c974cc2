"""How much host memory KV may take, and memory that a GPU copies from and to by itself."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Sequence

import torch
from torch import Tensor

from qoq.engine.config import EngineConfig
from qoq.engine.memory import OutOfMemoryError, gib

HOST_KV_CACHE_BYTES = 4 * 2**30

logger = logging.getLogger(__name__)


def plan_host_blocks(config: EngineConfig, *, available_bytes: int, bytes_per_block: int) -> int:
    """Blocks in host memory, of which ``available_bytes`` may be taken.

    Raises:
        OutOfMemoryError: what was asked for is more, or not one block.
    """
    wanted = config.host_kv_cache_bytes
    if wanted is None:
        wanted = min(HOST_KV_CACHE_BYTES, available_bytes // 4)
    elif wanted > available_bytes:
        raise OutOfMemoryError(
            f"--host-kv-cache-bytes {gib(wanted)} does not fit: {gib(available_bytes)} of host "
            "memory is available; lower it, or set it to 0 for none"
        )
    elif 0 < wanted < bytes_per_block:
        raise OutOfMemoryError(
            f"--host-kv-cache-bytes {wanted} holds no block of {bytes_per_block} bytes; raise it, "
            "or set it to 0 for none"
        )
    num_blocks = wanted // bytes_per_block
    logger.info("%d KV blocks in %s of host memory", num_blocks, gib(wanted))
    return num_blocks


def allocate_pinned(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """For copies with ``device``; not set to anything, and not pinned where that is the CPU.

    It takes just its size, where torch's own pinned memory takes a power of 2.

    Raises:
        OutOfMemoryError: the driver cannot lock so much memory.
    """
    tensor = torch.empty(shape, dtype=dtype)
    if device.type == "cpu":
        return tensor
    cudart = torch.cuda.cudart()
    error = int(cudart.cudaHostRegister(tensor.data_ptr(), tensor.nbytes, 0))
    if error:
        raise OutOfMemoryError(
            f"{gib(tensor.nbytes)} of host memory cannot be locked for the GPU (CUDA error "
            f"{error}); lower --host-kv-cache-bytes"
        )
    weakref.finalize(tensor, cudart.cudaHostUnregister, tensor.data_ptr())
    return tensor
