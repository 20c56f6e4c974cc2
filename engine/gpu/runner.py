"""Runs steps on a GPU and returns before they are done: the next one is prepared meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from qoq.engine.gpu.graphs import DecodeGraphs
from qoq.engine.gpu.inputs import FROM_DEVICE, Prefills, Rows, StepInputs
from qoq.engine.gpu.layers import DenseHead, GpuActivations, W8A8Linear
from qoq.engine.gpu.loader import GpuDecoder
from qoq.engine.gpu.piecewise_graphs import MAX_ROWS, PiecewiseGraphs
from qoq.engine.gpu.running_step import GpuRunningStep, RunningSteps
from qoq.engine.gpu.sampling.gpu_sampler import GpuSampler
from qoq.engine.gpu.sampling.pending_logprobs import PendingLogprobs
from qoq.engine.gpu.sampling.sampled_row import SampledRow
from qoq.engine.gpu.slots import Slots
from qoq.engine.gpu.swap import BlockSwapper
from qoq.engine.grammar import Grammars
from qoq.engine.models.decoder import take_rows
from qoq.engine.prompt_pass import PromptPass, Scores
from qoq.engine.request_state import RequestState, RequestStates
from qoq.kernels.gpu.sizes import round_up
from qoq.kernels.kv_cache import KvCache
from qoq.scheduler.batch import Batch, ScheduledRequest

# Kernels are compiled for numbers of rows that 16 divides and for others. With a prompt in the
# step it always does, so that nothing is compiled while requests wait.
ROW_MULTIPLE = 64
SAMPLE_MULTIPLE = 16


@dataclass(frozen=True, slots=True)
class _PromptRows:
    """``rows`` of the step belong to a prompt's tokens from position ``start`` on."""

    prompt_pass: PromptPass
    rows: range
    start: int


@dataclass(slots=True)
class _StepPlan:
    """The step's rows; ``context_lens`` of the decode rows; ``last_row`` by request id."""

    rows: Rows = field(default_factory=Rows)
    num_decode_rows: int = 0
    context_lens: list[int] = field(default_factory=list)
    prefills: Prefills = field(default_factory=Prefills)
    prompts: list[_PromptRows] = field(default_factory=list)
    last_row: dict[str, int] = field(default_factory=dict)

    def add_decode(self, item: ScheduledRequest, slot: int, state: RequestState) -> None:
        position = item.num_computed_tokens
        assert item.num_scheduled_tokens == 1, "a step has one output token of a request at most"
        is_known = position < len(state.token_ids)
        token_id = state.token_ids[position] if is_known else FROM_DEVICE
        self.last_row[item.request_id] = len(self.rows)
        self.rows.add(slot, range(position, position + 1), [token_id])
        self.context_lens.append(position + 1)

    def add_prefill(self, item: ScheduledRequest, slot: int, state: RequestState) -> None:
        start, stop = item.num_computed_tokens, item.end
        first = len(self.rows)
        self.rows.add(slot, range(start, stop), state.token_ids[start:stop])
        self.prefills.add(slot, stop - start, stop)
        self.last_row[item.request_id] = len(self.rows) - 1
        if state.prompt_pass is not None:
            rows = range(first, len(self.rows))
            self.prompts.append(_PromptRows(state.prompt_pass, rows, start))


class GpuModelRunner:
    """Runs steps in the order given; a step may continue a request whose last token it sampled."""

    def __init__(
        self,
        decoder: GpuDecoder,
        caches: list[KvCache],
        inputs: StepInputs,
        sampler: GpuSampler,
        grammars: Grammars,
        *,
        swapper: BlockSwapper | None,
        max_num_seqs: int,
        uses_graphs: bool,
    ) -> None:
        self.grammars = grammars
        assert isinstance(decoder.lm_head, W8A8Linear | DenseHead)
        self._decoder = decoder
        self._lm_head = decoder.lm_head
        # One for all graphs: each would keep its own.
        self._logits_memory = torch.empty(
            max_num_seqs, len(decoder.embedding), device=decoder.embedding.device
        )
        self._caches = caches
        self._inputs = inputs
        self._sampler = sampler
        self._swapper = swapper
        self._states = RequestStates(grammars)
        self._slots = Slots(max_num_seqs)
        self._running = RunningSteps()
        self._graphs = DecodeGraphs(self._decode, max_num_seqs) if uses_graphs else None
        self._pieces = PiecewiseGraphs(
            inputs.step_without_attention,
            lambda step: decoder.attend(step, caches),
            num_layers=len(caches),
            max_rows=inputs.max_rows if uses_graphs else 0,
        )

    @torch.inference_mode()
    def run_largest_prefill(self, max_rows: int) -> None:
        """Of nobody's tokens, to see what memory it takes."""
        self._run(self._dummy(max_rows), [0] * min(max_rows, self._inputs.nobody))

    @torch.inference_mode()
    def run_largest_decode(self) -> None:
        """Likewise."""
        max_num_seqs = self._inputs.nobody
        self._inputs.set_rows(Rows(), max_num_seqs)
        self._inputs.set_plans([])
        self._decode(max_num_seqs)

    @torch.inference_mode()
    def run_largest_pieces(self) -> None:
        """Likewise: what piecewise graphs hold."""
        num_rows = min(self._inputs.max_rows, MAX_ROWS)
        self._inputs.set_rows(Rows(), num_rows)
        step, _ = self._inputs.step_without_attention(num_rows, lambda *_: None)
        self._decoder.attend(step, self._caches)

    @torch.inference_mode()
    def warm_up(self, max_rows: int) -> None:
        """Compile what steps of up to ``max_rows`` rows need, and capture graphs."""
        if self._graphs is not None:
            self._inputs.set_rows(Rows(), self._inputs.max_rows)
            self._inputs.set_plans([])
            pool = torch.cuda.graph_pool_handle()
            self._graphs.capture(pool)
            self._pieces.capture(pool)
        rows = ROW_MULTIPLE
        while rows <= round_up(max_rows, ROW_MULTIPLE):
            self._sampler.warm_up(self._run(self._dummy(rows), [rows - 1]))
            rows *= 2

    @torch.inference_mode()
    def submit(self, batch: Batch) -> GpuRunningStep:
        """Start the step. Where the host must look at a request's tokens before its next one is
        sampled, it waits for those while the device computes this step's logits.
        """
        if self._swapper is not None:
            self._swapper.run(batch)
        self._update(batch)
        samples = [item for item in batch.scheduled if item.samples]
        plan = self._plan(batch.scheduled)
        places = [plan.last_row[item.request_id] for item in samples]
        is_in_order = places == list(range(len(plan.rows)))
        logits = self._logits(plan, places, is_in_order)
        if is_in_order:
            slots = self._inputs.slots(len(places))
        else:
            slots = self._inputs.send([self._slots[item.request_id] for item in samples])
        rows = [self._sampled_row(item) for item in samples]
        for row in rows:
            self._running.wait_for(row.state, self._sampler.num_known(row))
        tokens, logprobs = self._sampler.sample(logits, rows, slots, self._inputs.last_tokens)
        self._inputs.keep_tokens(slots, tokens)
        states = [row.state for row in rows]
        step = GpuRunningStep(tokens, [item.request_id for item in samples], states, logprobs)
        self._running.add(step)
        return step

    def close(self) -> None:
        """Waits for what runs."""
        if self._inputs.last_tokens.is_cuda:
            torch.cuda.synchronize()

    def _dummy(self, num_tokens: int) -> _StepPlan:
        return _dummy_prompts(self._inputs.nobody, num_tokens, self._inputs.max_model_len)

    def _update(self, batch: Batch) -> None:
        for request_id in batch.dropped:
            self._slots.release(request_id)
        self._states.update(batch)
        added = []
        for item in batch.scheduled:
            if item.new is not None:
                slot = self._slots.take(item.request_id)
                self._sampler.enter(slot, self._states[item.request_id])
            if item.new_block_ids:
                slot = self._slots[item.request_id]
                first = len(self._states[item.request_id].block_table) - len(item.new_block_ids)
                added += [(slot, first + i, block) for i, block in enumerate(item.new_block_ids)]
        self._inputs.extend_tables(added)

    def _sampled_row(self, item: ScheduledRequest) -> SampledRow:
        request_id = item.request_id
        return SampledRow(self._states[request_id], self._slots[request_id], item.end)

    def _plan(self, scheduled: Sequence[ScheduledRequest]) -> _StepPlan:
        """Output tokens first, one a request; then prompts."""
        plan = _StepPlan()
        for item in scheduled:
            state = self._states[item.request_id]
            if item.num_computed_tokens >= state.num_prompt_tokens:
                plan.add_decode(item, self._slots[item.request_id], state)
        plan.num_decode_rows = len(plan.rows)
        for item in scheduled:
            state = self._states[item.request_id]
            if item.num_computed_tokens < state.num_prompt_tokens:
                plan.add_prefill(item, self._slots[item.request_id], state)
        return plan

    def _logits(self, plan: _StepPlan, rows: list[int], is_in_order: bool) -> Tensor:
        """Of the tokens ``rows`` of the step (all of them, if in order), fp32 ``[R, V]``."""
        self._inputs.set_plans(plan.context_lens)
        if plan.prefills.slots or self._graphs is None:
            return self._run(plan, rows)
        bucket = self._graphs.bucket(len(plan.rows))
        self._inputs.set_rows(plan.rows, bucket)
        logits = self._graphs.replay(bucket)
        if is_in_order:
            return logits[: len(rows)]
        return logits[self._inputs.send(rows)]

    def _run(self, plan: _StepPlan, rows: list[int]) -> Tensor:
        first = round_up(len(rows), SAMPLE_MULTIPLE)
        wanted = rows + [0] * (first - len(rows))
        wanted += [row for part in plan.prompts for row in part.rows]
        hidden = self._hidden_states(plan, self._inputs.send(wanted))
        num_padded = first
        for part in plan.prompts:
            stop = first + len(part.rows)
            scored = take_rows(hidden, slice(first, stop))
            part.prompt_pass.add(scored, part.start, self._decoder, self._score)
            first = stop
        return self._decoder.logits(take_rows(hidden, slice(num_padded)))[: len(rows)]

    def _hidden_states(self, plan: _StepPlan, rows: Tensor) -> GpuActivations:
        num_rows = round_up(len(plan.rows), ROW_MULTIPLE)
        bucket = self._pieces.bucket(num_rows)
        self._inputs.set_rows(plan.rows, bucket or num_rows)
        if bucket is None:
            step = self._inputs.step(plan.num_decode_rows, num_rows, plan.prefills)
            return self._decoder.hidden_states(step, self._caches, rows)
        attended = self._pieces.replay(
            bucket,
            lambda tables: self._inputs.attention(tables[: plan.num_decode_rows], plan.prefills),
        )
        return self._decoder.finish(*attended, rows)

    def _score(self, logits: Tensor, token_ids: list[int], num_top: int) -> Scores:
        count, tokens = len(token_ids), self._inputs.send(token_ids)
        pending = PendingLogprobs(range(count), [num_top] * count, logits, tokens)
        return lambda: list(pending.take().values())

    def _decode(self, num_rows: int) -> Tensor:
        """The part of a decode step that does not look at the host: what graphs hold."""
        step = self._inputs.step(num_rows, num_rows, None)
        hidden = self._decoder.hidden_states(step, self._caches, None)
        return self._lm_head.write(hidden, self._logits_memory[:num_rows])


def _dummy_prompts(slot: int, num_tokens: int, max_model_len: int) -> _StepPlan:
    """Prompts that are nobody's: KV is written nowhere, and what is read is any block's."""
    plan = _StepPlan()
    while num_left := num_tokens - len(plan.rows):
        length = min(num_left, max_model_len)
        plan.rows.add(slot, range(length), [0] * length)
        plan.prefills.add(slot, length, length)
    return plan
