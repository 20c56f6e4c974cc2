"""The GPU engine on CPU tensors, for Triton's interpreter: the real scheduler, runner and kernels.

A CUDA graph is replaced by what it would have captured. Of each step it is kept which logits every
request's token was sampled from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from qoq.engine.build import scheduler_config
from qoq.engine.checkpoint import Checkpoint
from qoq.engine.config import EngineConfig
from qoq.engine.engine import Engine
from qoq.engine.engine_info import describe, eos_token_ids
from qoq.engine.gpu import build, graphs, inputs, piecewise_graphs, runner
from qoq.engine.gpu.loader import GpuDecoder, GpuLoader
from qoq.engine.gpu.running_step import GpuRunningStep
from qoq.engine.gpu.sampling import pending_logprobs
from qoq.engine.gpu.step import AttentionInputs
from qoq.engine.grammar import Grammars
from qoq.engine.llm import Completion
from qoq.engine.memory import MemoryPlan
from qoq.engine.models.config import parse_model_config
from qoq.engine.models.loader import kv_format
from qoq.engine.phases import Phases
from qoq.kernels.gpu.attention.merge_partials import ENOUGH_REQUESTS, MergeConfig
from qoq.kernels.gpu.gemm.w4a8 import W4A8Gemm
from qoq.kernels.gpu.quantized_rows import QuantizedRows
from qoq.kernels.kv_cache import KvFormat
from qoq.scheduler.batch import Batch
from qoq.scheduler.request import Request, SamplingParams
from qoq.scheduler.scheduler import Scheduler

CPU = torch.device("cpu")
MAX_MODEL_LEN = 512

# What is padding to a GPU takes the interpreter as long as the rest.
runner.ROW_MULTIPLE = build.ROW_MULTIPLE = 8
runner.SAMPLE_MULTIPLE = 2
inputs.SPARE_ITEMS = 8
inputs.MAX_CONTEXTS = 200  # prompts of a step attend in parts
pending_logprobs.NUM_TOP = 3
# One program a request, as of large batches: to the interpreter each program costs the same.
whole_rows = MergeConfig.of(ENOUGH_REQUESTS, row=4096)
MergeConfig.of = lambda num_requests, row: whole_rows  # type: ignore[method-assign]


def _poisoned(m: int, k: int, device: torch.device) -> QuantizedRows:
    """Small, so that the interpreter's sums of padding do not overflow."""
    return QuantizedRows(
        torch.full((m, k), 99, dtype=torch.int8),
        torch.full((m, 1), 0.1),
        torch.full((m,), 10**6, dtype=torch.int32),
    )


QuantizedRows.allocate = _poisoned  # type: ignore[method-assign]
graphs.DecodeGraphs.replay = lambda self, bucket: self._forward(bucket)  # type: ignore[method-assign]


def _run_pieces(
    self: piecewise_graphs.PiecewiseGraphs,
    bucket: int,
    attention: Callable[[Tensor], AttentionInputs],
) -> tuple[QuantizedRows, Tensor]:
    """As its graphs would."""
    step, tables = self._start(bucket, lambda *args: inputs_of_step.run(*args))
    inputs_of_step = attention(tables)
    return self._forward(step)


piecewise_graphs.PiecewiseGraphs.replay = _run_pieces  # type: ignore[method-assign]
piecewise_graphs.piecewise_buckets = lambda max_rows: [s for s in (8, 24) if s <= max_rows]


class RecordingRunner:
    """``logits`` by (request, position of the sampled token), a row for each time it was sampled.

    ``num_unknown_tokens`` counts tokens that steps took from the device.
    """

    def __init__(self, inner: runner.GpuModelRunner) -> None:
        self.grammars = inner.grammars
        self.logits: dict[tuple[str, int], list[Tensor]] = {}
        self.batches: list[Batch] = []
        self.caches = inner._caches
        self.num_unknown_tokens = 0
        self._inner = inner
        self._seen: Tensor | None = None
        sampler = inner._sampler
        sample = sampler.sample

        def listening(logits: Tensor, *args: object) -> object:
            self._seen = logits.clone()
            return sample(logits, *args)

        sampler.sample = listening  # type: ignore[method-assign]
        set_rows = inner._inputs.set_rows

        def counting(rows: inputs.Rows, num_rows: int) -> None:
            self.num_unknown_tokens += rows.token_ids.count(inputs.FROM_DEVICE)
            set_rows(rows, num_rows)

        inner._inputs.set_rows = counting  # type: ignore[method-assign]

    def submit(self, batch: Batch) -> GpuRunningStep:
        self.batches.append(batch)
        step = self._inner.submit(batch)
        sampled = [item for item in batch.scheduled if item.samples]
        for item, row in zip(sampled, self._seen if sampled else (), strict=True):
            self.logits.setdefault((item.request_id, item.end), []).append(row)
        return step

    def close(self) -> None:
        self._inner.close()


@dataclass(frozen=True)
class GpuModel:
    """Loaded once. Every engine on it has a scheduler, slots and a cache of its own."""

    decoder: GpuDecoder
    checkpoint: Checkpoint
    fmt: KvFormat

    @classmethod
    def load(cls, folder: Path, dtype: torch.dtype = torch.float32) -> GpuModel:
        checkpoint = Checkpoint(folder)
        model = parse_model_config(checkpoint.config)
        precision, gemm = checkpoint.precision_for(None), W4A8Gemm(CPU, arch=80)
        loader = GpuLoader(checkpoint, model, precision, CPU, dtype, gemm)
        return cls(loader.load(MAX_MODEL_LEN), checkpoint, kv_format(model, precision))

    def engine(
        self,
        num_blocks: int,
        num_host_blocks: int = 0,
        uses_graphs: bool = True,
        **settings: object,
    ) -> tuple[Engine, RecordingRunner]:
        checkpoint = self.checkpoint
        config = EngineConfig(model=checkpoint.folder, **settings)
        model, precision = parse_model_config(checkpoint.config), checkpoint.precision_for(None)
        fmt, plan = self.fmt, MemoryPlan(num_blocks, MAX_MODEL_LEN, num_host_blocks)
        eos = eos_token_ids(checkpoint, model)
        grammars = Grammars(checkpoint.folder / "tokenizer.json", model.vocab_size, eos)
        inner = build._make_runner(config, self.decoder, model, fmt, plan, grammars, uses_graphs)
        recording = RecordingRunner(inner)
        info = describe(checkpoint, model, precision, fmt, plan, "interpreter", Phases())
        scheduler = Scheduler(scheduler_config(config, info))
        return Engine(scheduler, recording, config.steps_in_flight), recording


def complete(
    engine: Engine, prompts: Sequence[list[int]], sampling: Sequence[SamplingParams]
) -> list[Completion]:
    """The request of prompt ``i`` has the id ``i``."""
    done = {str(index): Completion() for index in range(len(prompts))}
    for index, (prompt, params) in enumerate(zip(prompts, sampling, strict=True)):
        engine.add(Request(request_id=str(index), prompt_token_ids=prompt, sampling=params))
    while engine.has_work:
        for output in engine.step():
            done[output.request_id].add(output)
    return list(done.values())
