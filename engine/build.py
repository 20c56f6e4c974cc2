"""Config to a running engine: load, size the cache, wire, warm up."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor

import torch

from qoq.engine.checkpoint import Checkpoint, read_json
from qoq.engine.config import EngineConfig
from qoq.engine.engine import Engine
from qoq.engine.grammar import Grammars
from qoq.engine.memory import MemoryPlan, available_memory, plan_memory
from qoq.engine.model_runner import ModelRunner
from qoq.engine.models.config import ModelConfig, parse_model_config
from qoq.engine.models.loader import kv_format, load_decoder
from qoq.engine.precision import Precision
from qoq.engine.protocol import EngineInfo
from qoq.kernels.int8_gemm import check_exactness
from qoq.scheduler.config import SchedulerConfig
from qoq.scheduler.scheduler import Scheduler

logger = logging.getLogger(__name__)


def build_engine(config: EngineConfig) -> tuple[Engine, EngineInfo]:
    """Load the checkpoint and return an engine that is ready for requests.

    Everything that uses torch runs in the engine's device thread, loading too. OpenMP keeps a team
    of threads for every thread that asks for one, and with two teams on the same cores its barriers
    sleep instead of spin: a decode step took 95 ms in place of 54.

    Raises:
        CheckpointError: the checkpoint is missing, corrupt, or of another precision.
        OutOfMemoryError: weights and KV cache do not fit.
        ValueError: an unsupported architecture or a setting out of range.
    """
    started_s = time.monotonic()
    device = ThreadPoolExecutor(max_workers=1, thread_name_prefix="device")
    runner, info, plan = device.submit(build_runner, config).result()
    scheduler = Scheduler(
        SchedulerConfig(
            num_blocks=plan.num_blocks,
            block_size=info.block_size,
            max_num_seqs=config.max_num_seqs,
            max_num_batched_tokens=config.max_num_batched_tokens,
            max_model_len=plan.max_model_len,
            enable_prefix_caching=config.enable_prefix_caching,
        )
    )
    logger.info(
        "%s %s on %s: %d KV blocks of %d tokens, context %d, loaded in %.1f s",
        info.model,
        info.precision,
        info.device,
        info.num_blocks,
        info.block_size,
        info.max_model_len,
        time.monotonic() - started_s,
    )
    return Engine(scheduler, runner, device, config.steps_in_flight), info


def build_runner(config: EngineConfig) -> tuple[ModelRunner, EngineInfo, MemoryPlan]:
    """As ``build_engine``, without a scheduler: for evaluation that makes its own batches."""
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    check_exactness()
    checkpoint = Checkpoint(config.model)
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
    decoder = load_decoder(checkpoint, model, precision, plan.max_model_len)
    info = EngineInfo(
        model=config.model.name,
        max_model_len=plan.max_model_len,
        vocab_size=model.vocab_size,
        eos_token_ids=_eos_token_ids(checkpoint, model),
        bos_token_id=model.bos_token_id,
        num_blocks=plan.num_blocks,
        block_size=fmt.block_size,
        precision=precision.name,
        device="cpu",
    )
    grammars = Grammars(checkpoint.folder / "tokenizer.json", model.vocab_size, info.eos_token_ids)
    return ModelRunner(decoder, model, fmt, plan.num_blocks, grammars), info, plan


def _weight_bytes(model: ModelConfig, precision: Precision) -> int:
    """What the loaded weights take: INT8 or the dtype for layers, fp32 for lm_head."""
    heads = (2 * model.num_heads + 2 * model.num_kv_heads) * model.head_dim
    per_layer = model.hidden_size * (heads + 3 * model.intermediate_size)
    width = {"float32": 4, "float16": 4, "bfloat16": 2}[precision.dtype]
    layers = model.num_layers * per_layer * (1 if precision.activation_bits else width)
    return layers + model.vocab_size * model.hidden_size * (4 + 2)


def _eos_token_ids(checkpoint: Checkpoint, model: ModelConfig) -> tuple[int, ...]:
    """generation_config.json knows them better than config.json: chat models have several."""
    path = checkpoint.folder / "generation_config.json"
    eos = read_json(path).get("eos_token_id") if path.exists() else None
    if eos is None:
        return model.eos_token_ids
    return tuple(eos) if isinstance(eos, list) else (eos,)
