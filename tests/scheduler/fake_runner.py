"""A model runner without a model: it trusts batches alone and remembers what lies in every slot,
of the device's blocks and of the host's.

A slot holds the fingerprint of all tokens up to its own, as real KV depends on them. Before a
step is run, every earlier position of every scheduled request is looked up in its slot, so a
wrongly shared, wrongly reused or never computed block is seen at the first read.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from qoq.scheduler.batch import Batch, BlockCopies, RequestOutput, ScheduledRequest
from qoq.scheduler.config import SchedulerConfig
from qoq.scheduler.request import FinishReason, Request, SamplingParams
from qoq.scheduler.scheduler import Scheduler

VOCAB_SIZE = 50


def next_token(fingerprint: int) -> int:
    return fingerprint % VOCAB_SIZE


def extend(fingerprint: int, token_id: int) -> int:
    return hash((fingerprint, token_id))


def generate_alone(prompt: list[int], sampling: SamplingParams) -> tuple[list[int], FinishReason]:
    """What a request must yield, whatever its company."""
    fingerprint = 0
    for token_id in prompt:
        fingerprint = extend(fingerprint, token_id)
    output: list[int] = []
    while len(output) < sampling.max_tokens:
        output.append(next_token(fingerprint))
        if output[-1] in sampling.stop_token_ids:
            return output, FinishReason.STOP
        fingerprint = extend(fingerprint, output[-1])
    return output, FinishReason.LENGTH


@dataclass(slots=True)
class RunnerRequest:
    token_ids: list[int]
    num_prompt_tokens: int
    num_computed_tokens: int
    block_table: list[int] = field(default_factory=list)
    fingerprints: list[int] = field(default_factory=list)

    def extend_fingerprints(self) -> None:
        for token_id in self.token_ids[len(self.fingerprints) :]:
            last = self.fingerprints[-1] if self.fingerprints else 0
            self.fingerprints.append(extend(last, token_id))


# A token's fingerprint, inverted where it was computed as output and that makes a difference.
Blocks = list[list[int | None]]


def empty_blocks(num_blocks: int, block_size: int) -> Blocks:
    return [[None] * block_size for _ in range(num_blocks)]


def copy_blocks(copies: BlockCopies, sources: Blocks, targets: Blocks) -> None:
    """In no particular order, so no target may come twice."""
    assert len(set(copies.targets)) == len(copies.targets) == len(copies.sources)
    for source, target in zip(copies.sources, copies.targets, strict=True):
        targets[target] = list(sources[source])


class FakeRunner:
    """``slots[block_id][offset]`` is the whole device. Steps run at once, in order.

    ``num_computed`` counts the tokens that steps have run.
    """

    def __init__(self, config: SchedulerConfig) -> None:
        self.requests: dict[str, RunnerRequest] = {}
        self.num_computed = 0
        self._config = config
        self._slots = empty_blocks(config.num_blocks, config.block_size)
        self._host = empty_blocks(config.num_host_blocks, config.block_size)

    def run(self, batch: Batch) -> list[int]:
        assert 0 < batch.num_tokens <= self._config.max_num_batched_tokens
        assert len(batch.scheduled) <= self._config.max_num_seqs
        self.num_computed += batch.num_tokens
        for request_id in batch.dropped:
            del self.requests[request_id]
        copy_blocks(batch.swap_out, self._slots, self._host)
        copy_blocks(batch.swap_in, self._host, self._slots)
        for item in batch.scheduled:
            self._apply(item)
        for item in batch.scheduled:
            self._check_reads(item, item.num_computed_tokens)
        for item in batch.scheduled:
            self._write(item)
        for item in batch.scheduled:
            self._check_reads(item, item.end)
        return [self._sample(item) for item in batch.scheduled if item.samples]

    def _apply(self, item: ScheduledRequest) -> None:
        if item.new is None:
            request = self.requests[item.request_id]
        else:
            assert item.request_id not in self.requests, "new, but neither unknown nor dropped"
            request = RunnerRequest(
                list(item.new.token_ids), item.new.num_prompt_tokens, item.num_computed_tokens
            )
            self.requests[item.request_id] = request
        request.block_table.extend(item.new_block_ids)
        request.extend_fingerprints()
        assert item.num_scheduled_tokens > 0
        if self._config.separates_output and item.end > request.num_prompt_tokens:
            assert item.num_scheduled_tokens == 1, "a step has one output token of a request"
        assert item.num_computed_tokens == request.num_computed_tokens
        assert item.end <= len(request.token_ids), "a token was scheduled before it was sampled"
        assert item.samples == (item.end == len(request.token_ids))
        assert item.end <= len(request.block_table) * self._config.block_size

    def _check_reads(self, item: ScheduledRequest, end: int) -> None:
        request, size = self.requests[item.request_id], self._config.block_size
        for index, block_id in enumerate(request.block_table):
            positions = range(index * size, min((index + 1) * size, end))
            expected = [self._content(request, position) for position in positions]
            held = self._slots[block_id][: len(expected)]
            assert held == expected, f"{item.request_id}: block {block_id} holds other tokens"

    def _write(self, item: ScheduledRequest) -> None:
        request, size = self.requests[item.request_id], self._config.block_size
        for position in range(item.num_computed_tokens, item.end):
            block_id = request.block_table[position // size]
            self._slots[block_id][position % size] = self._content(request, position)
        request.num_computed_tokens = item.end

    def _content(self, request: RunnerRequest, position: int) -> int:
        is_output = self._config.separates_output and position >= request.num_prompt_tokens
        return ~request.fingerprints[position] if is_output else request.fingerprints[position]

    def _sample(self, item: ScheduledRequest) -> int:
        request = self.requests[item.request_id]
        token_id = next_token(request.fingerprints[-1])
        request.token_ids.append(token_id)
        return token_id


class FakeEngine:
    """Schedule, run, update: with ``lookahead`` 1 the update comes one step late."""

    def __init__(self, config: SchedulerConfig, lookahead: int = 0) -> None:
        self.scheduler = Scheduler(config, clock=lambda: float(self.num_steps))
        self.runner = FakeRunner(config)
        self.outputs: dict[Request, list[RequestOutput]] = {}
        self.num_steps = 0
        self.pending: list[tuple[Batch, list[int]]] = []
        self._lookahead = lookahead
        self.live: dict[str, Request] = {}

    def add(
        self, request_id: str, prompt: list[int], *, priority: int = 0, **sampling: object
    ) -> Request:
        request = Request(
            request_id=request_id,
            prompt_token_ids=prompt,
            sampling=SamplingParams(**{"max_tokens": 4, **sampling}),  # type: ignore[arg-type]
            priority=priority,
            arrival_s=float(self.num_steps),
        )
        self.scheduler.add(request)
        # An id that is used again: what the former request yielded is all out by then.
        self.receive(self.scheduler.take_outputs())
        self.live[request_id] = request
        self.outputs[request] = []
        return request

    def step(self) -> Batch:
        self.num_steps += 1
        assert self.num_steps <= 10_000, "no end in sight"
        waiting_before = set(self.scheduler._waiting)
        batch = self.scheduler.schedule()
        self._check_order(batch, waiting_before)
        if batch.scheduled:
            self.pending.append((batch, self.runner.run(batch)))
        self.scheduler.check_integrity()
        while len(self.pending) > (self._lookahead if batch.scheduled else 0):
            self.update()
        self.receive(self.scheduler.take_outputs())
        self.scheduler.check_integrity()
        return batch

    def update(self) -> None:
        self.receive(self.scheduler.update(*self.pending.pop(0)))

    def run_until_idle(self, max_steps: int = 1_000) -> None:
        for _ in range(max_steps):
            if not self.scheduler.has_work:
                return
            self.step()
        raise AssertionError(f"still not idle after {max_steps} steps")

    def receive(self, outputs: list[RequestOutput]) -> None:
        for output in outputs:
            self.outputs[self.live[output.request_id]].append(output)
            if output.finish_reason is not None:
                del self.live[output.request_id]  # any later output is a KeyError

    def tokens_of(self, request: Request) -> list[int]:
        return [token_id for output in self.outputs[request] for token_id in output.token_ids]

    def check_finished(self) -> None:
        """Everything ended once and as it would have alone; nothing is held any more."""
        assert not self.live and not self.pending and not self.scheduler.has_work
        assert self.scheduler.stats().kv_cache_usage == 0.0
        for request, outputs in self.outputs.items():
            assert outputs[-1].finish_reason is request.finish_reason is not None
            assert all(output.finish_reason is None for output in outputs[:-1])
            tokens = self.tokens_of(request)
            expected, reason = generate_alone(request.prompt_token_ids, request.sampling)
            if request.finish_reason is FinishReason.ABORT:
                assert tokens == expected[: len(tokens)]
            else:
                assert (tokens, request.finish_reason) == (expected, reason)

    def _check_order(self, batch: Batch, waiting_before: set[Request]) -> None:
        """Admissions come from the head of the queue, preemptions from the tail of the running."""
        running, waiting = list(self.scheduler._running), list(self.scheduler._waiting)
        admitted = [self.live[item.request_id] for item in batch.scheduled if item.new]
        if admitted and waiting:
            assert max(request.rank for request in admitted) < waiting[0].rank
        for request in set(waiting) - waiting_before:
            assert all(other.rank < request.rank for other in running)
