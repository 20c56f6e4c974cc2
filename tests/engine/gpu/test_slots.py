from __future__ import annotations

import pytest

from qoq.engine.gpu.slots import Slots


def test_the_lowest_free_slot_is_taken():
    slots = Slots(3)
    assert [slots.take(request_id) for request_id in "abc"] == [0, 1, 2]
    slots.release("b")
    slots.release("a")
    assert [slots.take("d"), slots.take("e")] == [0, 1]
    assert [slots[request_id] for request_id in "cde"] == [2, 0, 1]


def test_a_request_without_a_slot_has_none_to_release():
    """One that was aborted while it waited is dropped too."""
    slots = Slots(1)
    slots.release("a")
    assert slots.take("b") == 0
    with pytest.raises(IndexError):
        slots.take("c")


def test_a_released_slot_is_released_once():
    slots = Slots(2)
    slots.take("a")
    slots.release("a")
    slots.release("a")
    assert [slots.take("b"), slots.take("c")] == [0, 1]
