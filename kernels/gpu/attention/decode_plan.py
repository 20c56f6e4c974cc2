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
MERGE_ROOM = 512  # partials that the merge writes


@dataclass(frozen=True, slots=True)
class DecodePlan:
    """Made empty by ``allocate``, filled for a step by ``set``, or by what ``pack`` makes.

    ``words`` int32 hold the next three, so that a plan crosses to the device in one copy.
    ``count`` int32 ``[1]`` items are valid. ``items`` int32 ``[N, 5]``: request, first tile and the
    one past the last, first position seen and the one past the last. ``requests`` int32 ``[R, 4]``:
    first item, number of items, place of the first in its group, items in a group.
    ``partials`` fp32 ``[N + MERGE_ROOM, Hq, D]`` are sums of weighted values without the values'
    biases, ``stats`` fp32 ``[N + MERGE_ROOM, Hq, 3]`` the maximum score, the sum of weights and the
    weighted biases.
    ``arrivals`` int32 ``[R]`` are 0 between launches.
    """

    num_kv_heads: int
    max_context: int
    words: Tensor
    count: Tensor
    items: Tensor
    requests: Tensor
    partials: Tensor
    stats: Tensor
    arrivals: Tensor

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
            torch.empty(max_items + MERGE_ROOM, num_heads, head_dim, device=device),
            torch.empty(max_items + MERGE_ROOM, num_heads, 3, device=device),
            torch.zeros(max_requests, dtype=torch.int32, device=device),
        )

    def set(
        self,
        context_lens: list[int],
        window: int | None = None,
        prefix: int | None = None,
    ) -> None:
        """Plan a step. A context counts the token that attends; one of 0 has no item. Items have
        at least ``prefix`` partitions, where it is given.

        Raises:
            ValueError: more requests, items or tokens than the plan has room for.
        """
        words = self.pack(*self.divide(context_lens, window, prefix))
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
        prefix: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """``items`` and ``requests`` of a step, on the host. Raises as ``set`` does."""
        self._check(context_lens)
        stops = torch.tensor(context_lens, dtype=torch.int64)
        starts = torch.zeros_like(stops) if window is None else (stops - window).clamp_(min=0)
        first, counts = _count(starts, stops)
        chosen = self._prefix(counts.sum(1).tolist(), prefix)
        return _divide(starts, stops, chosen, first[chosen - 1], counts[chosen - 1])

    def _prefix(self, num_items: list[int], prefix: int | None) -> int:
        """As given, or the longest that makes enough programs; the shortest with room, if longer.

        ``num_items`` are those of a prefix of 1, 2, and so on: a longer one never makes more.
        """
        room = self.items.shape[0]
        if num_items[-1] > room:
            raise ValueError(f"context_lens: {num_items[-1]} items, the plan has room for {room}")
        if prefix is None:
            prefix = sum(count * self.num_kv_heads >= ENOUGH_PROGRAMS for count in num_items)
        return max(prefix, 1 + sum(count > room for count in num_items))

    def _check(self, context_lens: list[int]) -> None:
        if len(context_lens) > self.requests.shape[0]:
            raise ValueError(
                f"context_lens: {len(context_lens)} requests, "
                f"the plan has room for {self.requests.shape[0]}"
            )
        for length in (min(context_lens, default=0), max(context_lens, default=0)):
            if not 0 <= length <= self.max_context:
                raise ValueError(f"context_lens: expected 0 to {self.max_context}, got {length}")


def _index(partition: Tensor) -> Tensor:
    """``[GROUP, R]``: of the item that has a partition ``[R]``, counted from the context's start,
    where the prefix is 1, 2, and so on.
    """
    prefix = torch.arange(1, GROUP + 1)[:, None]
    place = (partition % GROUP - prefix + 1).clamp_(min=0)
    return partition // GROUP * (GROUP + 1 - prefix) + place


def _count(starts: Tensor, stops: Tensor) -> tuple[Tensor, Tensor]:
    """Index of the first item that has a position of ``starts`` to ``stops``, and how many have,
    both ``[GROUP, R]``.
    """
    first = _index(starts // PARTITION)
    last = _index((stops - 1).clamp_(min=0) // PARTITION)
    return first, torch.where(stops > 0, last - first + 1, 0)


def _divide(
    starts: Tensor, stops: Tensor, prefix: int, first: Tensor, counts: Tensor
) -> tuple[Tensor, Tensor]:
    """Items int32 ``[N, 5]``, those of long contexts first, and requests ``[R, 4]``."""
    per_group = GROUP + 1 - prefix
    order = torch.argsort(stops, descending=True, stable=True)
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
    places, sizes = first % per_group, torch.full_like(counts, per_group)
    return items.int(), torch.stack((first_items, counts, places, sizes), dim=1).int()
