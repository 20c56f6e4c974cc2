"""Config to a running engine: load, size the cache, wire, warm up."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor

import torch

from qoq.engine.config import EngineConfig
from qoq.engine.cpu.device_thread import DeviceThread
from qoq.engine.cpu.loader import load_decoder
from qoq.engine.cpu.model_runner import ModelRunner
from qoq.engine.engine import Engine, Runner
from qoq.engine.engine_info import describe
from qoq.engine.grammar import Grammars
from qoq.engine.memory import MemoryPlan, available_memory, plan_memory
from qoq.engine.models.config import ModelConfig, parse_model_config
from qoq.engine.models.loader import kv_format
from qoq.engine.open_checkpoint import open_checkpoint
from qoq.engine.phases import Phases, phases_text
from qoq.engine.precision import Precision
from qoq.engine.protocol import EngineInfo
from qoq.kernels.int8_gemm import check_exactness
from qoq.scheduler.config import SchedulerConfig
from qoq.scheduler.scheduler import Scheduler

logger = logging.getLogger(__name__)


def build_engine(config: EngineConfig) -> tuple[Engine, EngineInfo]:
    """Load the checkpoint and return an engine that is ready for requests.

    Raises:
        CheckpointError: the checkpoint is missing, corrupt, or of another precision.
        OutOfMemoryError: weights and KV cache do not fit.
        ValueError: an unsupported architecture or a setting out of range.
    """
    started_s = time.monotonic()
    runner, info = load_runner(config)
    scheduler = Scheduler(scheduler_config(config, info))
    logger.info(
        "%s %s on %s: %d KV blocks of %d tokens, context %d; ready in %.1f s: %s",
        info.model,
        info.precision,
        info.device,
        info.num_blocks,
        info.block_size,
        info.max_model_len,
        time.monotonic() - started_s,
        phases_text(info.start_s),
    )
    return Engine(scheduler, runner, config.steps_in_flight), info


def load_runner(config: EngineConfig) -> tuple[Runner, EngineInfo]:
    """On the device that ``config`` asks for. Raises as ``build_engine`` does."""
    return _gpu_runner(config) if runs_on_gpu(config) else _cpu_runner(config)


def scheduler_config(config: EngineConfig, info: EngineInfo) -> SchedulerConfig:
    """For the device that the runner of ``info`` is on."""
    is_gpu = info.device != "cpu"
    return SchedulerConfig(
        num_blocks=info.num_blocks,
        block_size=info.block_size,
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=config.step_tokens(is_gpu),
        max_model_len=info.max_model_len,
        num_host_blocks=info.num_host_blocks,
        enable_prefix_caching=config.enable_prefix_caching,
        separates_output=is_gpu,
    )


def runs_on_gpu(config: EngineConfig) -> bool:
    has_gpu = torch.cuda.is_available()
    if config.device == "cuda" and not has_gpu:
        raise ValueError("--device cuda: torch finds no CUDA device; use --device cpu")
    return has_gpu and config.device != "cpu"


def _gpu_runner(config: EngineConfig) -> tuple[Runner, EngineInfo]:
    # Needs triton, which a machine without a GPU may lack.
    from qoq.engine.gpu.build import build_gpu_runner

    return build_gpu_runner(config)


def _cpu_runner(config: EngineConfig) -> tuple[Runner, EngineInfo]:
    thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="device")
    runner, info, _ = thread.submit(build_runner, config).result()
    return DeviceThread(runner, thread), info


def build_runner(config: EngineConfig) -> tuple[ModelRunner, EngineInfo, MemoryPlan]:
    """A runner on the CPU, without a scheduler: for evaluation that makes its own batches too."""
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    phases = Phases()
    check_exactness()
    checkpoint = open_checkpoint(config, torch.device("cpu"))
    model = parse_model_config(checkpoint.config)
    precision = checkpoint.precision_for(config.precision)
    fmt = kv_format(model, precision)
    plan = plan_memory(
        config,
        weight_bytes=_weight_bytes(model, precision),
        bytes_per_block=fmt.block_bytes * model.num_layers,
        block_size=fmt.block_size,
        model_limit=model.max_position_embeddings,
        available_bytes=available_memory(),
    )
    phases.end("memory")
    decoder = load_decoder(checkpoint, model, precision, plan.max_model_len)
    phases.end("weights")
    info = describe(checkpoint, model, precision, fmt, plan, "cpu", phases)
    grammars = Grammars(checkpoint.folder / "tokenizer.json", model.vocab_size, info.eos_token_ids)
    return ModelRunner(decoder, model, fmt, plan.num_blocks, grammars), info, plan


def _weight_bytes(model: ModelConfig, precision: Precision) -> int:
    """What the loaded weights take: INT8 or the dtype for layers, fp32 for lm_head."""
    heads = (2 * model.num_heads + 2 * model.num_kv_heads) * model.head_dim
    per_layer = model.hidden_size * (heads + 3 * model.intermediate_size)
    width = {"float32": 4, "float16": 4, "bfloat16": 2}[precision.dtype]
    layers = model.num_layers * per_layer * (1 if precision.activation_bits else width)
    return layers + model.vocab_size * model.hidden_size * (4 + 2)
