from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from qoq.quantize.weights.cost import Cost, OutputError, SquaredError, WeightedError
from qoq.quantize.weights.int8_weight import round_to_int8
from qoq.quantize.weights.lattice import Lattice, closed_form, search_lattice

GROUP = 8
GENERATOR = torch.Generator().manual_seed(3)
INPUTS = torch.randn(20, GROUP, generator=GENERATOR)
COSTS: dict[str, Cost] = {
    "squared": SquaredError(),
    "weighted": WeightedError(torch.rand(GROUP, generator=GENERATOR) + 0.01),
    "output": OutputError(INPUTS.T @ INPUTS),
}


def integer_groups() -> st.SearchStrategy[Tensor]:
    """fp32 [1, G, 8] within the protective range, whole range and narrow ones alike."""
    group = st.lists(st.integers(-119, 119), min_size=GROUP, max_size=GROUP)
    narrow = st.lists(st.integers(100, 119), min_size=GROUP, max_size=GROUP)
    groups = st.lists(group | narrow, min_size=1, max_size=6)
    return groups.map(lambda rows: torch.tensor([rows], dtype=torch.float32))


def error(values: Tensor, lattice: Lattice) -> Tensor:
    return lattice.restore(lattice.encode(values)) - values


@given(integer_groups(), st.sampled_from(sorted(COSTS)))
def test_search_is_never_worse_than_the_closed_form(groups: Tensor, name: str):
    cost = COSTS[name]
    found = search_lattice(groups, cost)
    assert found.restore(found.encode(groups)).max() <= 127
    assert (cost(error(groups, found)) <= cost(error(groups, closed_form(groups)))).all()


@given(integer_groups())
def test_the_closed_form_errs_by_half_a_scale_or_by_what_lies_past_its_top(groups: Tensor):
    lattice = closed_form(groups)
    # scale = round(range / 15) falls short of the range by 15 * 0.5 at most.
    most = torch.maximum(lattice.scale / 2, torch.tensor(7.5))
    assert (error(groups, lattice).abs() <= most).all()


def test_search_finds_most_of_what_there_is_to_gain():
    """The optimum by trying every (scale, offset); the search may leave a fifth of the gap."""
    weight = torch.randn(40, 128, generator=torch.Generator().manual_seed(1))
    groups = round_to_int8(weight, 119).codes.float().view(40, 2, 64)
    best = torch.full((40, 2), torch.inf)
    for scale in range(1, 18):
        for offset in range(-128, 128):
            lattice = Lattice(torch.tensor(scale), torch.tensor(offset))
            restored = lattice.restore(lattice.encode(groups))
            squared = (restored - groups).square().sum(dim=-1)
            best = torch.minimum(best, squared.where(restored.amax(dim=-1) <= 127, torch.inf))
    closed = error(groups, closed_form(groups)).square().sum()
    found = error(groups, search_lattice(groups, SquaredError())).square().sum()
    assert best.sum() <= found <= best.sum() + 0.2 * (closed - best.sum())


def test_nearest_codes_fit_int8_for_every_scale_and_offset():
    """Exhaustive: what the search may choose from, for every value of level 0 in quarters."""
    values = torch.arange(-119.0, 119.25, 0.25)
    offsets = torch.arange(-128.0, 128.0)[:, None]
    for scale in range(1, 18):
        lattice = Lattice(torch.tensor(scale), offsets)
        codes = lattice.encode(values)
        assert codes.min() == 0 and codes.max() == 15
        restored = lattice.restore(codes)
        assert restored.min() >= -128
        assert restored.max() <= 127
