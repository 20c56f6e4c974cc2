"""Which row a program samples: rows that are filtered come first, as they take longest to choose.

So what follows the last of the logits is never a filter's search.
"""

from __future__ import annotations

import triton
import triton.language as tl

ROWS = tl.constexpr(256)


@triton.jit
def is_filtered(temperature, top_k, top_p, min_p, V):
    return (temperature > 0) & (((top_k > 0) & (top_k < V)) | (top_p < 1) | (min_p > 0))


@triton.jit
def row_at(place, num_rows, temperature_ptr, top_k_ptr, top_p_ptr, min_p_ptr, V):
    """Filtered rows from the front in order, the others from the back in reverse order."""
    row = place * 0
    before = place * 0
    for first in range(0, num_rows, ROWS):
        index = first + tl.arange(0, ROWS)
        is_row = index < num_rows
        filtered = is_filtered(
            tl.load(temperature_ptr + index, mask=is_row, other=0.0),
            tl.load(top_k_ptr + index, mask=is_row, other=0),
            tl.load(top_p_ptr + index, mask=is_row, other=1.0),
            tl.load(min_p_ptr + index, mask=is_row, other=0.0),
            V,
        ).to(tl.int32)
        rank = before + tl.cumsum(filtered, 0)
        own = tl.where(filtered > 0, rank - 1, num_rows - 1 - (index - rank))
        row += tl.sum(tl.where(is_row & (own == place), index, 0), 0)
        before += tl.sum(filtered, 0)
    return row
