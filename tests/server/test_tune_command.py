import argparse

import pytest
import torch

from qoq.server import tune_command


def parsed(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    tune_command.add_arguments(parser)
    return parser.parse_args(argv)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to tune")
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]):
    assert tune_command.run(parsed()) == 1
    assert "no CUDA GPU is visible" in capsys.readouterr().err


def test_shapes(capsys: pytest.CaptureFixture[str]):
    assert parsed("--shapes", "6144x4096", "10x20").shapes == [(6144, 4096), (10, 20)]
    with pytest.raises(SystemExit):
        parsed("--shapes", "6144")
    assert "'6144': expected NxK, as in 6144x4096" in capsys.readouterr().err
