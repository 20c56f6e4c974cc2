"""Turns a batch into tensors, runs the decoder and samples. Keeps what batches only extend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qoq.engine.cpu.attention import StepTensors
from qoq.engine.cpu.linear import Activations
from qoq.engine.cpu.loader import CpuDecoder
from qoq.engine.grammar import Grammars
from qoq.engine.logprobs import token_logprobs
from qoq.engine.models.config import ModelConfig
from qoq.engine.models.decoder import take_rows
from qoq.engine.prompt_pass import PromptPass, Scores
from qoq.engine.request_state import RequestStates
from qoq.engine.sampler import SampleRow, sample
from qoq.engine.step_result import StepResult
from qoq.kernels.attention_plan import AttentionPlan, plan_attention
from qoq.kernels.kv_cache import KvFormat, SlotMapping
from qoq.scheduler.batch import Batch, ScheduledRequest


@dataclass(frozen=True, slots=True)
class _PromptRows:
    """``rows`` of the step belong to a prompt's tokens from position ``start`` on."""

    prompt_pass: PromptPass
    rows: range
    start: int


class ModelRunner:
    """Runs steps in the order given; a step may continue a request whose last token it sampled."""

    def __init__(
        self,
        decoder: CpuDecoder,
        config: ModelConfig,
        fmt: KvFormat,
        num_blocks: int,
        grammars: Grammars,
    ) -> None:
        self._decoder = decoder
        self._config = config
        self._fmt = fmt
        self.grammars = grammars
        self._caches = [fmt.allocate(num_blocks) for _ in decoder.layers]
        self._states = RequestStates(grammars)

    @torch.inference_mode()
    def run(self, batch: Batch) -> StepResult:
        """The new token of each scheduled request that samples, in order."""
        self._states.update(batch)
        if not batch.scheduled:
            return StepResult([], {})
        step = self._step_tensors(batch.scheduled)
        sample_rows, prompt_rows = _sample_rows(batch), self._prompt_rows(batch)
        rows = sample_rows + [row for part in prompt_rows for row in part.rows]
        hidden = self._decoder.hidden_states(
            step, self._caches, torch.tensor(rows, dtype=torch.int64)
        )
        first = len(sample_rows)
        for part in prompt_rows:
            stop = first + len(part.rows)
            part.prompt_pass.add(
                take_rows(hidden, slice(first, stop)), part.start, self._decoder, _score
            )
            first = stop
        return self._sample(batch, take_rows(hidden, slice(len(sample_rows))))

    @torch.inference_mode()
    def logits(self, batch: Batch, rows: Sequence[int]) -> Tensor:
        """Fp32 ``[R, V]`` of the tokens ``rows`` of the batch, for evaluation; samples nothing."""
        self._states.update(batch)
        step = self._step_tensors(batch.scheduled)
        hidden = self._decoder.hidden_states(
            step, self._caches, torch.tensor(rows, dtype=torch.int64)
        )
        return self._decoder.logits(hidden)

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

    def _prompt_rows(self, batch: Batch) -> list[_PromptRows]:
        """Of each request that wants more of its prompt than KV: its prompt tokens in the step."""
        parts, offset = [], 0
        for item in batch.scheduled:
            state = self._states[item.request_id]
            if state.prompt_pass is not None and item.num_computed_tokens < state.num_prompt_tokens:
                count = min(item.end, state.num_prompt_tokens) - item.num_computed_tokens
                rows = range(offset, offset + count)
                parts.append(_PromptRows(state.prompt_pass, rows, item.num_computed_tokens))
            offset += item.num_scheduled_tokens
        return parts

    def _sample(self, batch: Batch, hidden: Activations) -> StepResult:
        ids = [item.request_id for item in batch.scheduled if item.samples]
        if not ids:
            return StepResult([], {})
        states = [self._states[request_id] for request_id in ids]
        rows = [SampleRow(s.sampling, s.token_ids, s.num_prompt_tokens, s.matcher) for s in states]
        logits = self._decoder.logits(hidden)
        scored = [place for place, row in enumerate(rows) if row.sampling.logprobs is not None]
        unchanged = logits[scored]
        tokens = sample(logits, rows)
        num_top = [rows[place].sampling.logprobs or 0 for place in scored]
        logprobs = token_logprobs(unchanged, [tokens[place] for place in scored], num_top)
        own = dict(zip((ids[place] for place in scored), logprobs, strict=True))
        extras = {
            request_id: self._states[request_id].take_extras(own.get(request_id))
            for request_id in ids
        }
        taken = [state.take(token) for state, token in zip(states, tokens, strict=True)]
        return StepResult(taken, {key: value for key, value in extras.items() if value is not None})


def _score(logits: Tensor, token_ids: list[int], num_top: int) -> Scores:
    rows = token_logprobs(logits, token_ids, [num_top] * len(token_ids))
    return lambda: rows


def _sample_rows(batch: Batch) -> list[int]:
    """Index, among the step's tokens, of the last token of each request that samples."""
    rows, end = [], 0
    for item in batch.scheduled:
        end += item.num_scheduled_tokens
        if item.samples:
            rows.append(end - 1)
    return rows
