"""``keep_freed_memory`` in a process of its own: the setting lasts as long as the process."""

import platform
import subprocess
import sys

import pytest

# Where a buffer of 24 MiB lies, and whether the heap is as large after it was freed.
PROGRAM = """
import ctypes, sys
from qoq.engine.heap import keep_freed_memory

def heap():
    line = next(line for line in open("/proc/self/maps") if line.endswith("[heap]\\n"))
    start, end = (int(part, 16) for part in line.split()[0].split("-"))
    return range(start, end)

if sys.argv[1] == "keep":
    keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
buffer = libc.malloc(ctypes.c_size_t(24 << 20))
before = heap()
libc.free(ctypes.c_void_p(buffer))
print(buffer in before, heap() == before)
"""


def heap_after(setting: str) -> str:
    command = [sys.executable, "-P", "-c", PROGRAM, setting]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_a_large_buffer_comes_from_the_heap_and_stays_there():
    assert heap_after("keep") == "True True"
    assert heap_after("default").startswith("False")  # a mapping of its own, given back when freed
