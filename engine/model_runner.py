"""Turns a batch into tensors, runs the decoder and samples. Keeps what batches only extend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from qoq.engine.layers.attention import StepTensors
from qoq.engine.layers.linear import Activations
from qoq.engine.models.config import ModelConfig
from qoq.engine.models.decoder import Decoder
from qoq.engine.sampler import SampleRow, sample
from qoq.kernels.attention_plan import AttentionPlan, plan_attention
from qoq.kernels.kv_cache import KvFormat, SlotMapping
from qoq.scheduler.batch import Batch, ScheduledRequest
from qoq.scheduler.request import SamplingParams


@dataclass(slots=True)
class _RequestState:
    token_ids: list[int]
    num_prompt_tokens: int
    sampling: SamplingParams
    block_table: list[int] = field(default_factory=list)


class ModelRunner:
    """Runs steps in the order given; a step may continue a request whose last token it sampled."""

    def __init__(
        self, decoder: Decoder, config: ModelConfig, fmt: KvFormat, num_blocks: int
    ) -> None:
        self._decoder = decoder
        self._config = config
        self._fmt = fmt
        self._caches = [fmt.allocate(num_blocks) for _ in decoder.layers]
        self._states: dict[str, _RequestState] = {}

    @torch.inference_mode()
    def run(self, batch: Batch) -> list[int]:
        """The new token of each scheduled request that samples, in order."""
        self._update_states(batch)
        if not batch.scheduled:
            return []
        step = self._step_tensors(batch.scheduled)
        rows = torch.tensor(_sample_rows(batch), dtype=torch.int64)
        return self._sample(batch, self._decoder.hidden_states(step, self._caches, rows))

    @torch.inference_mode()
    def logits(self, batch: Batch, rows: Sequence[int]) -> Tensor:
        """Fp32 ``[R, V]`` of the tokens ``rows`` of the batch, for evaluation; samples nothing."""
        self._update_states(batch)
        step = self._step_tensors(batch.scheduled)
        hidden = self._decoder.hidden_states(
            step, self._caches, torch.tensor(rows, dtype=torch.int64)
        )
        return self._decoder.logits(hidden)

    def _update_states(self, batch: Batch) -> None:
        for request_id in batch.dropped:
            self._states.pop(request_id, None)
        for item in batch.scheduled:
            if item.new is not None:
                self._states[item.request_id] = _RequestState(
                    list(item.new.token_ids), item.new.num_prompt_tokens, item.new.sampling
                )
            self._states[item.request_id].block_table += item.new_block_ids

    def _step_tensors(self, scheduled: list[ScheduledRequest]) -> StepTensors:
        states = [self._states[item.request_id] for item in scheduled]
        ranges = [
            range(item.num_computed_tokens, item.num_computed_tokens + item.num_scheduled_tokens)
            for item in scheduled
        ]
        tables = [state.block_table for state in states]
        pairs = list(zip(ranges, states, strict=True))
        input_ids = [token for span, s in pairs for token in s.token_ids[span.start : span.stop]]
        positions = torch.tensor([position for span in ranges for position in span])
        size = self._fmt.block_size
        blocks = [s.block_table[position // size] for span, s in pairs for position in span]
        return StepTensors(
            input_ids=torch.tensor(input_ids),
            rope=self._decoder.rope_table[positions],
            slots=SlotMapping(torch.tensor(blocks), positions % size),
            plans={w: self._plan(ranges, tables, w) for w in set(self._config.windows)},
        )

    def _plan(
        self, ranges: list[range], tables: list[list[int]], window: int | None
    ) -> AttentionPlan:
        return plan_attention(
            [len(span) for span in ranges],
            [span.stop for span in ranges],
            tables,
            num_heads=self._config.num_heads,
            num_kv_heads=self._config.num_kv_heads,
            block_size=self._fmt.block_size,
            window=window,
        )

    def _sample(self, batch: Batch, hidden: Activations) -> list[int]:
        states = [self._states[item.request_id] for item in batch.scheduled if item.samples]
        if not states:
            return []
        rows = [SampleRow(s.sampling, s.token_ids, s.num_prompt_tokens) for s in states]
        tokens = sample(self._decoder.logits(hidden), rows)
        for state, token in zip(states, tokens, strict=True):
            state.token_ids.append(token)
        return tokens


def _sample_rows(batch: Batch) -> list[int]:
    """Index, among the step's tokens, of the last token of each request that samples."""
    rows, end = [], 0
    for item in batch.scheduled:
        end += item.num_scheduled_tokens
        if item.samples:
            rows.append(end - 1)
    return rows
