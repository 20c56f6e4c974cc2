from __future__ import annotations

import pytest

from qoq.engine.precision import COMPARISONS, PRECISIONS, parse_precision, stored_precision


@pytest.mark.parametrize("name", [*PRECISIONS, *COMPARISONS])
def test_names_say_what_is_in_them(name: str):
    """``w4a16`` has 4-bit weights and nothing else quantized; 16 stands for a float of any size."""
    precision = parse_precision(name)
    assert precision.name == name
    if name.startswith("w"):
        weights, _, rest = name[1:].partition("a")
        activations, _, cache = rest.partition("kv")
        expected = [int(n) if int(n) < 16 else None for n in (weights, activations)]
        assert [precision.weight_bits, precision.activation_bits] == expected
        assert precision.kv_bits == (int(cache) if cache else expected[1])
    else:
        assert not precision.is_quantized and precision.kv_bits is None


def test_a_comparison_runs_on_a_checkpoint_that_can_be_made():
    assert {name: stored_precision(name) for name in COMPARISONS} == {
        "w4a16": "w4a8kv4",
        "w4a4": "w4a8kv4",
        "w16a16kv4": "fp32",
    }


def test_a_precision_of_its_own_is_stored_as_itself():
    assert [stored_precision(name) for name in PRECISIONS] == list(PRECISIONS)
    assert stored_precision("int3") == "int3"  # whoever reads it says what is wrong
