"""What versions of Triton, from 3.6 on, name or do differently."""

import os

from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import tma

# Triton 3.6 has the second name of each, 3.7 the first of the barrier, 3.8 the first of the copies.
# In 3.9 the second names of the copies are left, and raise an error.
thread_barrier = gl.barrier if hasattr(gl, "barrier") else gl.thread_barrier
async_load = tma.async_load if hasattr(tma, "async_load") else tma.async_copy_global_to_shared
async_store = tma.async_store if hasattr(tma, "async_store") else tma.async_copy_shared_to_global

# Products and sums become one instruction, as they did by default; 3.9 warns that 3.10 will not.
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
