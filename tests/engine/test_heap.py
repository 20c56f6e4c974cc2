"""``keep_freed_memory`` in a process of its own: the setting lasts as long as the process."""

import platform
import subprocess
import sys

import pytest

BUFFER_BYTES = 24 << 20
# Uses and frees buffers over and over; prints its page faults but those of the first round.
PROGRAM = f"""
import resource, sys
import torch
from qoq.engine.heap import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
before = 0
for index in range(20):
    if index == 3:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    buffers = [torch.ones({BUFFER_BYTES}, dtype=torch.uint8) for _ in range(4)]
    del buffers
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(setting: str) -> int:
    command = [sys.executable, "-P", "-c", PROGRAM, setting]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_large_buffers_are_not_faulted_in_again():
    pages_of_a_round = 4 * BUFFER_BYTES // 4096
    assert page_faults("keep") < pages_of_a_round < page_faults("default")
