"""What an engine says of itself once it is loaded."""

from __future__ import annotations

from qoq.engine.checkpoint import Checkpoint, read_json
from qoq.engine.dummy_checkpoint import DummyCheckpoint
from qoq.engine.memory import MemoryPlan
from qoq.engine.models.config import ModelConfig
from qoq.engine.phases import Phases
from qoq.engine.precision import Precision
from qoq.engine.protocol import EngineInfo
from qoq.kernels.kv_cache import KvFormat


def describe(
    checkpoint: Checkpoint | DummyCheckpoint,
    model: ModelConfig,
    precision: Precision,
    fmt: KvFormat,
    plan: MemoryPlan,
    device: str,
    phases: Phases,
) -> EngineInfo:
    return EngineInfo(
        model=checkpoint.folder.name,
        max_model_len=plan.max_model_len,
        vocab_size=model.vocab_size,
        eos_token_ids=eos_token_ids(checkpoint, model),
        bos_token_id=model.bos_token_id,
        num_blocks=plan.num_blocks,
        block_size=fmt.block_size,
        precision=precision.name,
        device=device,
        num_host_blocks=plan.num_host_blocks,
        block_bytes=fmt.block_bytes * model.num_layers,
        start_s=phases.seconds,
    )


def eos_token_ids(checkpoint: Checkpoint | DummyCheckpoint, model: ModelConfig) -> tuple[int, ...]:
    """generation_config.json knows them better than config.json: chat models have several."""
    path = checkpoint.folder / "generation_config.json"
    eos = read_json(path).get("eos_token_id") if path.exists() else None
    if eos is None:
        return model.eos_token_ids
    return tuple(eos) if isinstance(eos, list) else (eos,)
