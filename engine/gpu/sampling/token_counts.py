"""Which tokens requests had, counted on the device for those whose penalties ask for it.

A row of counts takes 2 bytes a token of the vocabulary: 257 KB for Llama 3's 128,256. There are 8
rows at first, 2 MB. When more requests have penalties at a time than there are rows, their number
doubles, up to one for each request: 66 MB for 256, once more half of that while the old rows are
copied. That comes out of what ``memory.py`` keeps free, 3.4 GB of an H100.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qoq.engine.gpu.transfer import send_together
from qoq.kernels.gpu.sampling.token_counts import count_sampled_triton, count_tokens

FIRST_ROWS = 8
NO_ROW = -1


class TokenCounts:
    """``counts`` int16 ``[N, V]``, as ``qoq.kernels.gpu.sampling.token_counts`` reads them."""

    def __init__(self, max_num_seqs: int, vocab_size: int, device: torch.device) -> None:
        self._max_rows = max_num_seqs
        self._rows: dict[int, int] = {}
        self._free: list[int] = []
        self.counts = torch.empty(0, vocab_size, dtype=torch.int16, device=device)
        self._grow(min(FIRST_ROWS, max_num_seqs))

    def row(self, slot: int) -> int:
        return self._rows.get(slot, NO_ROW)

    def enter(self, slot: int, prompt: Sequence[int], output: Sequence[int]) -> None:
        """Count what a request has that takes the slot; later tokens are counted by ``add``."""
        if not self._free:
            self._grow(min(2 * len(self.counts), self._max_rows))
        row = self._rows[slot] = self._free.pop()
        tokens = [torch.tensor(ids, dtype=torch.int64) for ids in (prompt, output)]
        count_tokens(self.counts[row], *send_together(tokens, self.counts.device))

    def leave(self, slot: int) -> None:
        """Does nothing where the slot has no row."""
        if slot in self._rows:
            self._free.append(self._rows.pop(slot))

    def add(self, tokens: Tensor, rows: Tensor) -> None:
        """What a step sampled, int64 ``[R]``, in these rows int64 ``[R]``."""
        count_sampled_triton(tokens, rows, self.counts)

    def _grow(self, num_rows: int) -> None:
        counts = self.counts.new_empty(num_rows, self.counts.shape[1])
        counts[: len(self.counts)] = self.counts
        self._free += range(len(self.counts), num_rows)
        self.counts = counts
