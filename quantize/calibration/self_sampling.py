"""Calibration text from the model itself: what it says when it is let talk.

Needs no data, and fits the model's language and subjects. The engine draws all samples as one
batch at temperature 1.
"""

from __future__ import annotations

from math import ceil
from pathlib import Path

import torch
from tqdm import tqdm

from qoq.engine.build import build_engine
from qoq.engine.checkpoint import Checkpoint
from qoq.engine.config import EngineConfig
from qoq.engine.engine import Engine
from qoq.engine.memory import OutOfMemoryError
from qoq.engine.models.config import ModelConfig, parse_model_config
from qoq.engine.models.loader import kv_format
from qoq.engine.protocol import SamplingParams
from qoq.quantize.calibration.token_windows import TokenWindows
from qoq.quantize.errors import ModelSourceError
from qoq.quantize.recipe import CalibrationSpec
from qoq.scheduler.request import Request

ORIGIN = "sampled from the model"


def sample_windows(folder: Path, spec: CalibrationSpec, *, progress: bool) -> TokenWindows:
    """From the checkpoint in ``folder``. Each sample starts at a random token and goes on past the
    ends of documents.

    Raises ModelSourceError where samples are longer than the context or do not fit the memory.
    """
    checkpoint = Checkpoint(folder)
    model = parse_model_config(checkpoint.config)
    if spec.length > model.max_position_embeddings:
        raise ModelSourceError(
            f"recipe: calibration.length is {spec.length}, and the model's context is "
            f"{model.max_position_embeddings}; set a smaller one"
        )
    engine = _build(_engine_config(checkpoint, model, spec))
    requests = _requests(model, spec)
    try:
        _run(engine, requests, progress)
    finally:
        engine.close()
    return TokenWindows(torch.tensor([request.token_ids for request in requests]), ORIGIN)


def _build(config: EngineConfig) -> Engine:
    try:
        return build_engine(config)[0]
    except OutOfMemoryError as error:
        raise ModelSourceError(
            f"the model cannot be sampled from: {error}; or give a text by --calib, or fewer "
            "samples by --set calibration.num_samples=N"
        ) from error


def _run(engine: Engine, requests: list[Request], progress: bool) -> None:
    for request in requests:
        engine.add(request)
    total = sum(request.sampling.max_tokens for request in requests)
    with tqdm(total=total, desc="sampling", unit="token", disable=not progress) as bar:
        while engine.has_work:
            bar.update(sum(len(output.token_ids) for output in engine.step()))


def _engine_config(
    checkpoint: Checkpoint, model: ModelConfig, spec: CalibrationSpec
) -> EngineConfig:
    """With a cache that holds all samples to their ends, so that none is preempted."""
    fmt = kv_format(model, checkpoint.precision)
    num_blocks = spec.num_samples * ceil(spec.length / fmt.block_size)
    return EngineConfig(
        model=checkpoint.folder,
        max_model_len=spec.length,
        max_num_seqs=spec.num_samples,
        kv_cache_bytes=num_blocks * fmt.block_bytes * model.num_layers,
    )


def _requests(model: ModelConfig, spec: CalibrationSpec) -> list[Request]:
    generator = torch.Generator().manual_seed(spec.seed)
    start = [] if model.bos_token_id is None else [model.bos_token_id]
    firsts = torch.randint(model.vocab_size, (spec.num_samples,), generator=generator).tolist()
    seeds = torch.randint(2**31, (spec.num_samples,), generator=generator).tolist()
    num_new = spec.length - len(start) - 1
    return [
        Request(
            request_id=str(index),
            prompt_token_ids=[*start, first],
            sampling=SamplingParams(max_tokens=num_new, seed=seed),
        )
        for index, (first, seed) in enumerate(zip(firsts, seeds, strict=True))
    ]
