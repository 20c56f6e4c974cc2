import logging

import pytest

from qoq.quantize.errors import ModelSourceError
from qoq.quantize.weights.group_size import fit_group_sizes


def test_falls_back_and_says_so_once_for_each_k(caplog: pytest.LogCaptureFixture):
    shapes = {"a": (8, 576), "b": (16, 576), "c": (8, 1536), "d": (8, 96)}
    with caplog.at_level(logging.WARNING):
        assert fit_group_sizes(shapes, 128) == {"a": 64, "b": 64, "c": 128, "d": 32}
    assert caplog.messages == [
        "group size 128 does not divide K = 96; using 32 there",
        "group size 128 does not divide K = 576; using 64 there",
    ]


def test_never_takes_a_larger_size_than_asked():
    assert fit_group_sizes({"a": (8, 1024)}, 32) == {"a": 32}


def test_names_the_tensor_and_shape_that_nothing_divides():
    with pytest.raises(ModelSourceError, match=r"divides K of model\.x \[8, 80\]; use --group"):
        fit_group_sizes({"model.x": (8, 80)}, 128)
