"""Changes of single logits, on the host: of one row, and of all rows of a step."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

ALWAYS = -1  # in the place of the token that an edit's must follow


class RowEdits(NamedTuple):
    """``values`` fp32 are added to the logits of ``token_ids`` int32.

    Where ``follows`` int32 is a token, that is so behind this token only.
    """

    token_ids: array[int]
    values: array[float]
    follows: array[int]

    @classmethod
    def of(cls, edits: Sequence[tuple[int, float, int]]) -> RowEdits:
        token_ids, values, follows = zip(*edits, strict=True) if edits else ((), (), ())
        return cls(array("i", token_ids), array("f", values), array("i", follows))


NO_EDITS = RowEdits.of([])


def join(rows: Sequence[RowEdits]) -> tuple[Tensor, ...]:
    """The fields of ``LogitEdits``; empty where there is no edit in any row."""
    starts = array("i", accumulate((len(row.token_ids) for row in rows), initial=0))
    if not starts[-1]:
        return ()
    token_ids, values, follows = (b"".join(parts) for parts in zip(*rows, strict=True))
    return (
        torch.frombuffer(starts, dtype=torch.int32),
        torch.frombuffer(bytearray(token_ids), dtype=torch.int32),
        torch.frombuffer(bytearray(values), dtype=torch.float32),
        torch.frombuffer(bytearray(follows), dtype=torch.int32),
    )
