"""Measures the engine process on this machine, and Hugging Face ``generate`` beside it.

Both generate ``output_len`` tokens after the same prompts of ``prompt_len`` random ids; a rate is
output tokens over wall time from the requests to the last token, prefill included, the median of
``repeats`` runs after one to warm up.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from qoq.engine.config import EngineConfig
from qoq.engine.process_client import ProcessClient
from qoq.engine.protocol import GenerateRequest, SamplingParams


@dataclass(frozen=True, slots=True)
class Workload:
    prompt_len: int
    output_len: int
    repeats: int

    def prompts(self, count: int, vocab_size: int, seed: int) -> list[list[int]]:
        random = Random(seed)
        return [
            [random.randrange(vocab_size) for _ in range(self.prompt_len)] for _ in range(count)
        ]


@dataclass(frozen=True, slots=True)
class EngineResult:
    """``rates`` maps concurrent streams to their tokens/s together; bytes are of the process."""

    ready_s: float
    resident_bytes: int
    rates: dict[int, float]


async def measure_engine(
    config: EngineConfig, workload: Workload, streams: list[int]
) -> EngineResult:
    """Raises EngineStartError where the engine does not come up."""
    client = ProcessClient(config)
    started_s = time.monotonic()
    await client.start()
    ready_s = time.monotonic() - started_s
    try:
        rates = {count: await _rate(client, workload, count) for count in streams}
        return EngineResult(ready_s, client.resident_bytes(), rates)
    finally:
        await client.close()


async def _rate(client: ProcessClient, workload: Workload, count: int) -> float:
    rates = []
    for run in range(workload.repeats + 1):
        prompts = workload.prompts(count, client.info.vocab_size, seed=run)
        started_s = time.monotonic()
        await asyncio.gather(
            *(
                _stream(client, f"{count}-{run}-{index}", prompt, workload.output_len)
                for index, prompt in enumerate(prompts)
            )
        )
        rates.append(count * workload.output_len / (time.monotonic() - started_s))
    return statistics.median(rates[1:])


async def _stream(client: ProcessClient, request_id: str, prompt: list[int], length: int) -> None:
    request = GenerateRequest(
        request_id=request_id,
        prompt_token_ids=prompt,
        sampling=SamplingParams(max_tokens=length, temperature=0.0),
        arrival_s=time.monotonic(),
    )
    async for _ in client.generate(request):
        pass


def measure_hugging_face(folder: Path, workload: Workload) -> float:
    """Tokens/s of one stream in fp32, in a process of its own with torch's default threads."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_hugging_face_rate, (folder, workload))


def _hugging_face_rate(folder: Path, workload: Workload) -> float:
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    length, rates = workload.output_len, []
    for run in range(workload.repeats + 1):
        prompt = torch.tensor(workload.prompts(1, model.config.vocab_size, seed=run))
        started_s = time.monotonic()
        model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=length,
            min_new_tokens=length,
            do_sample=False,
            pad_token_id=0,
        )
        rates.append(length / (time.monotonic() - started_s))
    return statistics.median(rates[1:])
