"""In processes of their own: what is set lasts as long as the process."""

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


# Objects that a full collection looks at, before and after; and whether it finds new garbage still.
COLLECTOR = """
import gc, weakref
from qoq.engine.heap import spare_collector

class Cycle:
    def __init__(self):
        self.itself = self

kept = [Cycle() for _ in range(5000)]
print(len(gc.get_objects()) > 5000)
spare_collector()
print(len(gc.get_objects()) < 100)
garbage = weakref.ref(Cycle())
gc.collect()
print(garbage() is None)
"""


def output_of(program: str, *arguments: str) -> str:
    command = [sys.executable, "-P", "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_a_large_buffer_comes_from_the_heap_and_stays_there():
    assert output_of(PROGRAM, "keep") == "True True"
    assert output_of(PROGRAM, "default").startswith(
        "False"
    )  # a mapping of its own, given back when freed


def test_a_full_collection_looks_at_what_is_new_alone():
    assert output_of(COLLECTOR).split() == ["True"] * 3
