"""Which programs attend to which part of which context in a decode step, held in device memory.

A context is cut into partitions of ``PARTITION`` tokens, and ``GROUP`` of them, by their place in
the context, are a group. Partials fold in order within a group, then groups fold in order. An item
of work is the first ``prefix`` partitions of a group, or one of those that follow: what an item
folds, the merge would fold in the same order, so the choice moves no bit. Long items cost no memory
traffic; short ones are for batches too small to fill a GPU.

The tensors stay where they are from step to step, as CUDA graphs require.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

PARTITION = 256
GROUP = 8
TILE = 64
# Eight programs on most of an H100's 132 SMs.
ENOUGH_PROGRAMS = 1024
HEADER = 4  # words before the requests


@dataclass(frozen=True, slots=True)
class DecodePlan:
    """Made empty by ``allocate``, filled for a step by ``set``, or by what ``pack`` makes.

    ``words`` int32 hold the next three, so that a plan crosses to the device in one copy.
    ``count`` int32 ``[1]`` items are valid. ``items`` int32 ``[N, 5]``: request, first tile and the
    one past the last, first position seen and the one past the last. ``requests`` int32 ``[R, 4]``:
    first item, number of items, place of the first in its group, items in a group.
    ``partials`` fp32 ``[N, Hq, D]`` are sums of weighted values without the values' biases,
    ``stats`` fp32 ``[N, Hq, 3]`` the maximum score, the sum of weights and the weighted biases.
    """

    num_kv_heads: int
    max_context: int
    words: Tensor
    count: Tensor
    items: Tensor
    requests: Tensor
    partials: Tensor
    stats: Tensor

    @classmethod
    def allocate(
        cls,
        max_requests: int,
        max_items: int,
        max_context: int,
        *,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        device: torch.device,
    ) -> DecodePlan:
        first_item = HEADER + 4 * max_requests
        words = torch.zeros(first_item + 5 * max_items, dtype=torch.int32, device=device)
        return cls(
            num_kv_heads,
            max_context,
            words,
            words[:1],
            words[first_item:].view(max_items, 5),
            words[HEADER:first_item].view(max_requests, 4),
            torch.empty(max_items, num_heads, head_dim, device=device),
            torch.empty(max_items, num_heads, 3, device=device),
        )

    def set(
        self,
        context_lens: list[int],
        window: int | None = None,
        enough_programs: int = ENOUGH_PROGRAMS,
    ) -> None:
        """Plan a step. A context counts the token that attends; one of 0 has no item.

        Raises:
            ValueError: more requests, items or tokens than the plan has room for.
        """
        words = self.pack(*self.divide(context_lens, window, enough_programs))
        self.words[: len(words)] = words.to(self.words.device)

    def pack(self, items: Tensor, requests: Tensor) -> Tensor:
        """The first of ``words`` for these, int32 on the host."""
        first_item = HEADER + self.requests.numel()
        words = torch.zeros(first_item + items.numel(), dtype=torch.int32)
        words[0] = len(items)
        words[HEADER : HEADER + requests.numel()] = requests.view(-1)
        words[first_item:] = items.view(-1)
        return words

    def divide(
        self,
        context_lens: list[int],
        window: int | None = None,
        enough_programs: int = ENOUGH_PROGRAMS,
    ) -> tuple[Tensor, Tensor]:
        """``items`` and ``requests`` of a step, on the host. Raises as ``set`` does."""
        self._check(context_lens)
        stops = torch.tensor(context_lens, dtype=torch.int64)
        starts = torch.zeros_like(stops) if window is None else (stops - window).clamp_(min=0)
        return _divide(starts, stops, self._prefix(starts, stops, enough_programs))

    def _prefix(self, starts: Tensor, stops: Tensor, enough_programs: int) -> int:
        """The longest that makes enough programs, else the shortest with room for its items."""
        best = 0
        for prefix in range(GROUP, 0, -1):
            _, counts = _count(starts, stops, prefix)
            num_items = int(counts.sum())
            if num_items > self.items.shape[0]:
                break
            best = prefix
            if num_items * self.num_kv_heads >= enough_programs:
                break
        if not best:
            room = self.items.shape[0]
            raise ValueError(f"context_lens: {num_items} items, the plan has room for {room}")
        return best

    def _check(self, context_lens: list[int]) -> None:
        if len(context_lens) > self.requests.shape[0]:
            raise ValueError(
                f"context_lens: {len(context_lens)} requests, "
                f"the plan has room for {self.requests.shape[0]}"
            )
        for length in context_lens:
            if not 0 <= length <= self.max_context:
                raise ValueError(f"context_lens: expected 0 to {self.max_context}, got {length}")


def _index(partition: Tensor, prefix: int) -> Tensor:
    """Of the item that has a partition, counted from the context's start."""
    place = (partition % GROUP - prefix + 1).clamp_(min=0)
    return partition // GROUP * (GROUP + 1 - prefix) + place


def _count(starts: Tensor, stops: Tensor, prefix: int) -> tuple[Tensor, Tensor]:
    """Index of the first item that has a position of ``starts`` to ``stops``, and how many have."""
    first = _index(starts // PARTITION, prefix)
    last = _index((stops - 1).clamp(min=0) // PARTITION, prefix)
    return first, torch.where(stops > 0, last - first + 1, 0)


def _divide(starts: Tensor, stops: Tensor, prefix: int) -> tuple[Tensor, Tensor]:
    """Items int32 ``[N, 5]``, those of long contexts first, and requests ``[R, 4]``."""
    per_group = GROUP + 1 - prefix
    order = torch.argsort(stops, descending=True, stable=True)
    first, counts = _count(starts, stops, prefix)
    first_items = torch.empty_like(counts)
    first_items[order] = counts[order].cumsum(0) - counts[order]
    owner = order.repeat_interleave(counts[order])
    index = torch.arange(len(owner)) - first_items[owner] + first[owner]
    group, place = index // per_group, index % per_group
    begin = (group * GROUP + torch.where(place > 0, place + prefix - 1, 0)) * PARTITION
    end = (group * GROUP + place + prefix) * PARTITION
    begin, end = torch.maximum(begin, starts[owner]), torch.minimum(end, stops[owner])
    tiles = (begin // TILE, (end + TILE - 1) // TILE)
    items = torch.stack((owner, *tiles, starts[owner], stops[owner]), dim=1)
    places = first % per_group
    requests = torch.stack((first_items, counts, places, torch.full_like(counts, per_group)), dim=1)
    return items.int(), requests.int()
