"""Config to a running GPU: load, measure what a step takes, give the rest to the cache, capture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from qoq.engine.checkpoint import Checkpoint
from qoq.engine.config import EngineConfig
from qoq.engine.dummy_checkpoint import DummyCheckpoint
from qoq.engine.engine_info import describe, eos_token_ids
from qoq.engine.gpu.host_memory import plan_host_blocks
from qoq.engine.gpu.inputs import StepInputs
from qoq.engine.gpu.loader import GpuDecoder, GpuLoader
from qoq.engine.gpu.memory import explain_out_of_memory, plan_gpu_memory
from qoq.engine.gpu.runner import ROW_MULTIPLE, GpuModelRunner
from qoq.engine.gpu.sampling.gpu_sampler import GpuSampler
from qoq.engine.gpu.swap import BlockSwapper, staging_blocks
from qoq.engine.grammar import Grammars
from qoq.engine.memory import MemoryPlan, available_memory, wanted_model_len
from qoq.engine.models.config import ModelConfig, parse_model_config
from qoq.engine.models.loader import kv_format
from qoq.engine.open_checkpoint import open_checkpoint
from qoq.engine.phases import Phases
from qoq.engine.precision import Precision
from qoq.engine.protocol import EngineInfo
from qoq.kernels.gpu.gemm.w4a8 import W4A8Gemm
from qoq.kernels.gpu.sizes import round_up
from qoq.kernels.kv_cache import KvFormat

OLDEST_CAPABILITY = (8, 0)


def build_gpu_runner(config: EngineConfig) -> tuple[GpuModelRunner, EngineInfo]:
    """Load and warm up on the first CUDA device; nothing is compiled after.

    Raises:
        CheckpointError: the checkpoint is missing, corrupt, or of another precision.
        OutOfMemoryError: weights and KV cache do not fit.
        ValueError: an unsupported GPU, architecture or precision, or a setting out of range.
    """
    phases = Phases()
    device = torch.device("cuda", torch.cuda.current_device())
    _check_capability(device)
    checkpoint = open_checkpoint(config, device)
    model = parse_model_config(checkpoint.config)
    precision = checkpoint.precision_for(config.precision)
    _check_precision(precision)
    fmt = kv_format(model, precision)
    max_model_len = wanted_model_len(config, model.max_position_embeddings)
    loader = GpuLoader(
        checkpoint, model, precision, device, _model_dtype(checkpoint), W4A8Gemm(device)
    )
    phases.end("device")
    with explain_out_of_memory("the weights", "use a smaller model"):
        decoder = loader.load(max_model_len)
    phases.end("weights")
    grammars = Grammars(
        checkpoint.folder / "tokenizer.json", model.vocab_size, eos_token_ids(checkpoint, model)
    )
    step_tokens = config.step_tokens(is_gpu=True)
    step = f"a step of {step_tokens} tokens and {config.max_num_seqs} requests"
    with explain_out_of_memory(step, "lower --max-num-batched-tokens or --max-num-seqs"):
        plan = _plan_memory(config, decoder, model, fmt, grammars)
    phases.end("memory")
    graphs = f"the KV cache and CUDA graphs of up to {config.max_num_seqs} requests"
    with explain_out_of_memory(graphs, "lower --kv-cache-bytes or --max-num-seqs"):
        runner = _make_runner(config, decoder, model, fmt, plan, grammars)
        runner.warm_up(step_tokens)
        torch.cuda.synchronize()
    phases.end("graphs")
    name = torch.cuda.get_device_name(device)
    return runner, describe(checkpoint, model, precision, fmt, plan, name, phases)


def _make_runner(
    config: EngineConfig,
    decoder: GpuDecoder,
    model: ModelConfig,
    fmt: KvFormat,
    plan: MemoryPlan,
    grammars: Grammars,
    uses_graphs: bool = True,
) -> GpuModelRunner:
    device = decoder.embedding.device
    step_tokens = round_up(config.step_tokens(is_gpu=True), ROW_MULTIPLE)
    inputs = StepInputs(
        model,
        fmt,
        decoder.rope_table,
        max_rows=max(step_tokens, config.max_num_seqs),
        max_num_seqs=config.max_num_seqs,
        max_model_len=plan.max_model_len,
        num_blocks=plan.num_blocks,
    )
    caches = [fmt.allocate_on(device, plan.num_blocks) for _ in decoder.layers]
    return GpuModelRunner(
        decoder,
        caches,
        inputs,
        GpuSampler(config.max_num_seqs, model.vocab_size, device),
        grammars,
        swapper=BlockSwapper(caches, plan.num_host_blocks) if plan.num_host_blocks else None,
        max_num_seqs=config.max_num_seqs,
        uses_graphs=uses_graphs,
    )


def _plan_memory(
    config: EngineConfig,
    decoder: GpuDecoder,
    model: ModelConfig,
    fmt: KvFormat,
    grammars: Grammars,
) -> MemoryPlan:
    device = decoder.embedding.device
    step_bytes, buffer_bytes = _probe(config, decoder, model, fmt, grammars)
    torch.cuda.empty_cache()
    free_bytes, total_bytes = torch.cuda.mem_get_info(device)
    bytes_per_block = fmt.block_bytes * model.num_layers
    num_host_blocks = plan_host_blocks(
        config, available_bytes=available_memory(), bytes_per_block=bytes_per_block
    )
    swap_bytes = staging_blocks(num_host_blocks, bytes_per_block) * bytes_per_block
    plan = plan_gpu_memory(
        config,
        total_bytes=total_bytes,
        free_bytes=free_bytes,
        step_bytes=step_bytes,
        buffer_bytes=buffer_bytes + swap_bytes,
        bytes_per_block=bytes_per_block,
        block_size=fmt.block_size,
        model_limit=model.max_position_embeddings,
    )
    return replace(plan, num_host_blocks=num_host_blocks)


def _probe(
    config: EngineConfig,
    decoder: GpuDecoder,
    model: ModelConfig,
    fmt: KvFormat,
    grammars: Grammars,
) -> tuple[int, int]:
    """What the largest step takes, and a runner's buffers and graphs, with a cache of one block.

    Prompts of one token need all of prefill attention's scratch, as long contexts do. Graphs share
    the memory of the largest step that they hold, and fragment it.
    """
    device = decoder.embedding.device
    before = torch.cuda.memory_allocated(device)
    runner = _make_runner(config, decoder, model, fmt, MemoryPlan(1, 1), grammars, False)
    runner_bytes = torch.cuda.memory_allocated(device) - before
    step_tokens = config.step_tokens(is_gpu=True)
    step_bytes = _peak_bytes(device, lambda: runner.run_largest_prefill(step_tokens))
    decode_bytes = _peak_bytes(device, runner.run_largest_decode)
    piece_bytes = _peak_bytes(device, runner.run_largest_pieces)
    return step_bytes, runner_bytes + 2 * max(decode_bytes, piece_bytes)


def _peak_bytes(device: torch.device, run: Callable[[], None]) -> int:
    """Allocated by ``run`` at a time."""
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    return torch.cuda.max_memory_allocated(device) - before


def _check_capability(device: torch.device) -> None:
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST_CAPABILITY:
        raise ValueError(
            f"{torch.cuda.get_device_name(device)} has compute capability "
            f"{capability[0]}.{capability[1]}; kernels need 8.0 (A100, L40S, H100 and later), so "
            "use --device cpu"
        )


def _check_precision(precision: Precision) -> None:
    if (precision.activation_bits, precision.kv_bits) not in ((8, 4), (8, 8)):
        raise ValueError(
            f"--precision {precision.name} runs on the CPU only; use w4a8kv4 or w8a8kv8, or "
            "--device cpu"
        )


def _model_dtype(checkpoint: Checkpoint | DummyCheckpoint) -> torch.dtype:
    """Of the residual stream: the 16-bit type that the model was trained in, else fp16."""
    name = checkpoint.config.get("dtype") or checkpoint.config.get("torch_dtype")
    return torch.bfloat16 if name == "bfloat16" else torch.float16
