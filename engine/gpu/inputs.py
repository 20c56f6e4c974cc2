"""A step's inputs: device memory that stays where it is, filled by a few small asynchronous copies.

The host knows which tokens run and how long contexts are. Which token a running request sampled
last only the device knows: ids are taken from there where the host has none yet.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from qoq.engine.gpu.step import AttentionInputs, GpuStep, PrefillPart, RunAttention
from qoq.engine.models.config import ModelConfig
from qoq.kernels.gpu.attention.decode_plan import DecodePlan
from qoq.kernels.gpu.attention.prefill_plan import plan_prefill
from qoq.kernels.gpu.locate_tokens import LocatedTokens, locate_tokens
from qoq.kernels.kv_cache import KvFormat

FROM_DEVICE = -1  # in the place of a token id
NOWHERE = -1  # a block that nothing is written to
# Items of decode attention beside one for each request and 2048 tokens: short contexts, few
# requests, many programs.
SPARE_ITEMS = 1024
TOKENS_PER_ITEM = 2048
# That prompts attend to at a time: keys and values of one head of 128 in fp16 take 512 MiB.
MAX_CONTEXTS = 1 << 20


@dataclass(slots=True)
class Rows:
    """Tokens of a step on the host: parallel lists, decode rows first."""

    slots: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.slots)

    def add(self, slot: int, positions: range, token_ids: Sequence[int]) -> None:
        self.slots += [slot] * len(positions)
        self.positions += positions
        self.token_ids += token_ids


@dataclass(slots=True)
class Prefills:
    """Of each request whose prompt is computed: slot, tokens in the step, tokens up to its end."""

    slots: list[int] = field(default_factory=list)
    query_lens: list[int] = field(default_factory=list)
    context_lens: list[int] = field(default_factory=list)

    def add(self, slot: int, num_queries: int, context_len: int) -> None:
        self.slots.append(slot)
        self.query_lens.append(num_queries)
        self.context_lens.append(context_len)

    def parts(self) -> Iterator[Prefills]:
        """In order, each with contexts of ``MAX_CONTEXTS`` tokens in all, or one request."""
        part = Prefills()
        for item in zip(self.slots, self.query_lens, self.context_lens, strict=True):
            if part.slots and sum(part.context_lens) + item[2] > MAX_CONTEXTS:
                yield part
                part = Prefills()
            part.add(*item)
        if part.slots:
            yield part


class StepInputs:
    """``last_tokens`` int64 ``[S + 1]`` are what each slot sampled last; slot ``S`` is nobody's."""

    def __init__(
        self,
        config: ModelConfig,
        fmt: KvFormat,
        rope_table: Tensor,
        *,
        max_rows: int,
        max_num_seqs: int,
        max_model_len: int,
        num_blocks: int,
    ) -> None:
        device = rope_table.device
        self.nobody = max_num_seqs
        self.max_rows = max_rows
        self.max_model_len = max_model_len
        self.last_tokens = torch.zeros(max_num_seqs + 1, dtype=torch.int64, device=device)
        self._config = config
        self._fmt = fmt
        self._rope_table = rope_table
        self._rows = torch.zeros(3, max_rows, dtype=torch.int64, device=device)
        max_blocks = -(-max_model_len // fmt.block_size)
        shape = (max_num_seqs + 1, max_blocks)
        self._tables = torch.full(shape, NOWHERE, dtype=torch.int32, device=device)
        max_items = max_num_seqs + num_blocks * fmt.block_size // TOKENS_PER_ITEM + SPARE_ITEMS
        self._plans = {
            window: DecodePlan.allocate(
                max_num_seqs,
                max_items,
                max_model_len,
                num_heads=config.num_heads,
                num_kv_heads=config.num_kv_heads,
                head_dim=config.head_dim,
                device=device,
            )
            for window in set(config.windows)
        }

    def extend_tables(self, added: Sequence[tuple[int, int, int]]) -> None:
        """Block tables take (slot, index in its table, block id)."""
        if added:
            slots, indices, blocks = self.send(added).t().unbind()
            self._tables[slots, indices] = blocks.int()

    def slots(self, num_rows: int) -> Tensor:
        """Of the rows that are set, int64 ``[num_rows]``."""
        return self._rows[0, :num_rows]

    def keep_tokens(self, slots: Tensor, tokens: Tensor) -> None:
        """What the requests in ``slots`` sampled, int64 ``[R]``: their next step starts from it."""
        self.last_tokens[slots] = tokens

    def set_rows(self, rows: Rows, num_rows: int) -> None:
        """Up to ``num_rows``, what is left computes nobody's token."""
        padding = num_rows - len(rows)
        host = [
            rows.slots + [self.nobody] * padding,
            rows.positions + [0] * padding,
            rows.token_ids + [0] * padding,
        ]
        self._rows[:, :num_rows].copy_(self.send(host))

    def set_plans(self, context_lens: list[int]) -> None:
        """Of decode attention, one for each sliding window."""
        for window, plan in self._plans.items():
            words = plan.pack(*plan.divide(context_lens, window))
            plan.words[: len(words)].copy_(self._pinned(words), non_blocking=True)

    def step(self, num_decode_rows: int, num_rows: int, prefills: Prefills | None) -> GpuStep:
        """From what was set. Without prefills nothing comes from the host: it may be captured."""
        located = self._locate(num_rows, num_decode_rows)
        return self._step(located, self.attention(located.tables, prefills).run)

    def step_without_attention(self, num_rows: int, attend: RunAttention) -> tuple[GpuStep, Tensor]:
        """From what was set; ``attend`` gets each layer's attention. It may be captured. And the
        block tables of as many of the rows as there can be requests.
        """
        located = self._locate(num_rows, min(num_rows, self.nobody))
        return self._step(located, attend), located.tables

    def attention(self, decode_tables: Tensor, prefills: Prefills | None) -> AttentionInputs:
        """Block tables int32 ``[R, max_blocks]`` of the step's ``R`` output tokens."""
        parts = [] if prefills is None else [self._part(part) for part in prefills.parts()]
        return AttentionInputs(decode_tables, self._plans, parts)

    def _locate(self, num_rows: int, num_tables: int) -> LocatedTokens:
        slots, positions, _ = self._rows[:, :num_rows].unbind()
        return locate_tokens(
            slots, positions, self._tables, self._rope_table, self._fmt.block_size, num_tables
        )

    def _step(self, located: LocatedTokens, attend: RunAttention) -> GpuStep:
        slots, _, token_ids = self._rows[:, : len(located.rope)].unbind()
        return GpuStep(token_ids, slots, self.last_tokens, located.rope, located.slots, attend)

    def _part(self, prefills: Prefills) -> PrefillPart:
        plans = {
            window: plan_prefill(
                prefills.query_lens,
                prefills.context_lens,
                self._config.num_heads,
                self._config.num_kv_heads,
                window,
            )
            for window in self._plans
        }
        sent = {
            window: replace(plan, table=self._pinned(plan.table)).to(self.last_tokens.device)
            for window, plan in plans.items()
        }
        return PrefillPart(sent, self._tables[self.send(prefills.slots)])

    def send(self, values: Sequence[object]) -> Tensor:
        """Integers as an int64 tensor on the device, without waiting."""
        tensor = torch.tensor(values, dtype=torch.int64)
        return self._pinned(tensor).to(self.last_tokens.device, non_blocking=True)

    def _pinned(self, tensor: Tensor) -> Tensor:
        """Copied from pinned memory, so that the copy waits for nobody."""
        return tensor.pin_memory() if self.last_tokens.is_cuda else tensor
