import os
from concurrent.futures.process import BrokenProcessPool

import pytest

from qoq.engine.benchmarks.own_process import in_own_process
from qoq.engine.checkpoint import CheckpointError, read_json


def test_a_result_comes_from_another_process():
    assert in_own_process(os.getpid) != os.getpid()


def test_an_error_comes_as_it_was_raised(tmp_path):
    with pytest.raises(CheckpointError, match="absent"):
        in_own_process(read_json, tmp_path / "absent.json")


def test_a_process_that_ends_is_an_error():
    with pytest.raises(BrokenProcessPool):
        in_own_process(os._exit, 3)
