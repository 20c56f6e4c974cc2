"""The plan of a prefill step: every query once, every block that a query may see once."""

from typing import Any

import pytest
import torch

from qoq.kernels.gpu.attention.prefill_plan import BLOCK, ROWS, SPAN, PrefillPlan, plan_prefill

LENGTHS = [130, 64, 3, 1000]
QUERIES = [100, 0, 3, 600]


def seen(plan: PrefillPlan, table_row: list[int]) -> set[int]:
    """Positions that a program's rows see."""
    _, tokens, first, _ = table_row
    start = 0 if plan.window is None else max(first - plan.window + 1, 0)
    return set(range(start, first + tokens))


def test_programs_cover_each_query_once() -> None:
    plan = plan_prefill(QUERIES, LENGTHS, 8, 2)
    tokens = [(p[0] + i, p[2] + i) for p in plan.programs.tolist() for i in range(p[1])]
    starts = [0, 100, 100, 103]
    expected = [
        (starts[r] + i, LENGTHS[r] - QUERIES[r] + i) for r in range(4) for i in range(QUERIES[r])
    ]
    assert sorted(tokens) == sorted(expected)
    assert int(plan.programs[:, 1].max()) <= ROWS // 4
    assert plan.num_tokens == 703


@pytest.mark.parametrize("window", [None, 1, 128, 300])
def test_rows_hold_what_programs_see(window: int | None) -> None:
    """At the place that the program expects, and nothing overlaps."""
    plan = plan_prefill(QUERIES, LENGTHS, 8, 2, window)
    places: dict[tuple[int, int], int] = {}
    for request, block, tokens, row in plan.blocks.tolist():
        places |= {(request, block * BLOCK + i): row + i for i in range(tokens)}
    assert len(set(places.values())) == len(places)
    starts = {0: 0, 100: 2, 103: 3}
    for program in plan.programs.tolist():
        request = starts[max(start for start in starts if start <= program[0])]
        for position in seen(plan, program):
            assert places[request, position] == program[3] + position


@pytest.mark.parametrize("window", [None, 300])
def test_each_context_fills_whole_spans(window: int | None) -> None:
    """A tile begins at a multiple of its size in the context and stays in the request's rows."""
    plan = plan_prefill(QUERIES, LENGTHS, 8, 2, window)
    for request in range(4):
        rows = [entry for entry in plan.blocks.tolist() if entry[0] == request]
        assert len(rows) * BLOCK % SPAN == 0
        assert not rows or rows[0][1] * BLOCK % SPAN == 0
    assert plan.blocks[:, 3].tolist() == [i * BLOCK for i in range(plan.num_blocks)]


def test_longest_programs_come_first() -> None:
    programs = plan_prefill(QUERIES, LENGTHS, 8, 2).programs
    reach = (programs[:, 1] + programs[:, 2]).tolist()
    assert reach == sorted(reach, reverse=True)


def test_a_window_leaves_old_blocks_out() -> None:
    plan = plan_prefill([10], [10000], 8, 2, window=500)
    first = (10000 - 10 - 500 + 1) // SPAN * SPAN
    assert plan.num_rows == 10112 - first


def test_nothing_to_do() -> None:
    plan = plan_prefill([], [], 8, 2)
    assert plan.table.shape == (0, 4) and plan.table.dtype == torch.int32
    assert plan_prefill([0, 0], [5, 9], 8, 2).table.shape == (0, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(([2], [1], 8, 2), "query_lens: 2"), (([1], [1], 8, 3), "num_heads: 8")],
)
def test_refuses_what_cannot_be_planned(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_prefill(*arguments)
