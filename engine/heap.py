"""The heaps, C's and Python's, of a process that does the same over and over."""

import ctypes
import gc

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)
TRIM_THRESHOLD_BYTES = 256 << 20
MMAP_THRESHOLD_BYTES = 32 << 20  # the largest that glibc takes


def keep_freed_memory() -> None:
    """Let freed memory stay with the process, for the next step to use again.

    By default glibc gives every large buffer back to the kernel, and a step on the CPU pays for
    thousands of page faults to get them again. Without effect where the C library is not glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)
        mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES)


def spare_collector() -> None:
    """Take what exists for what stays: the garbage collector never looks at it again.

    For when a process is ready. A full collection of all that torch and transformers leave behind
    stops it for 50 to 150 ms, once a second where hundreds of requests decode.
    """
    gc.collect()
    gc.freeze()
