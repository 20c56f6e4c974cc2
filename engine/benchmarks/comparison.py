"""Measures the engine process on this machine, and Hugging Face ``generate`` beside it.

Both generate ``output_len`` tokens after prompts of ``prompt_len`` random ids, the median of
``repeats`` runs after one to warm up.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qoq.engine.benchmarks.rate import Rate, random_prompts
from qoq.engine.config import EngineConfig
from qoq.engine.process_client import ProcessClient
from qoq.engine.protocol import GenerateRequest, SamplingParams


@dataclass(frozen=True, slots=True)
class Workload:
    prompt_len: int
    output_len: int
    repeats: int


@dataclass(frozen=True, slots=True)
class EngineResult:
    """``rates`` by number of concurrent streams; ``resident_bytes`` is of the engine process."""

    ready_s: float
    resident_bytes: int
    rates: dict[int, Rate]


async def measure_engine(
    config: EngineConfig, workload: Workload, streams: list[int]
) -> EngineResult:
    """Raises EngineStartError where the engine does not come up."""
    client = ProcessClient(config)
    started_s = time.monotonic()
    await client.start()
    ready_s = time.monotonic() - started_s
    try:
        rates = {count: await _measure(client, workload, count) for count in streams}
        return EngineResult(ready_s, client.resident_bytes(), rates)
    finally:
        await client.close()


async def _measure(client: ProcessClient, workload: Workload, count: int) -> Rate:
    rates = []
    for run in range(workload.repeats + 1):
        prompts = random_prompts(count, workload.prompt_len, client.info.vocab_size, run)
        started_s = time.monotonic()
        streams = await asyncio.gather(
            *(
                _token_times(client, f"{count}-{run}-{index}", prompt, workload.output_len)
                for index, prompt in enumerate(prompts)
            )
        )
        rates.append(Rate.of(started_s, streams))
    return Rate.median(rates[1:])


async def _token_times(
    client: ProcessClient, request_id: str, prompt: list[int], length: int
) -> list[float]:
    request = GenerateRequest(
        request_id=request_id,
        prompt_token_ids=prompt,
        sampling=SamplingParams(max_tokens=length, temperature=0.0),
        arrival_s=time.monotonic(),
    )
    times: list[float] = []
    async for output in client.generate(request):
        times += [output.time_s] * len(output.token_ids)
    return times


def measure_hugging_face(folder: Path, workload: Workload) -> Rate:
    """One stream in fp32, in a process of its own with torch's default threads."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_hugging_face_rate, (folder, workload))


def _hugging_face_rate(folder: Path, workload: Workload) -> Rate:
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    rates = []
    for run in range(workload.repeats + 1):
        prompts = random_prompts(1, workload.prompt_len, model.config.vocab_size, run)
        prompt = torch.tensor(prompts)
        clock = _Clock()
        started_s = time.monotonic()
        model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=workload.output_len,
            min_new_tokens=workload.output_len,
            do_sample=False,
            pad_token_id=0,
            streamer=clock,
        )
        rates.append(Rate.of(started_s, [clock.times[1:]]))
    return Rate.median(rates[1:])


class _Clock:
    """A streamer for ``generate`` that notes when it is given the prompt and each token."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: object) -> None:
        self.times.append(time.monotonic())

    def end(self) -> None:
        pass
