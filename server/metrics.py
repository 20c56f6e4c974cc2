"""What Prometheus sees: vLLM's names, labels and bucket bounds, recorded here and nowhere else.

Seconds are monotonic. TTFT and every ITL gap of a request add up to the time from its arrival
to its last token, whatever number of tokens came in one output.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector

from qoq.engine.protocol import EngineClient, GenerateRequest, TokenOutput
from qoq.server.engine_collector import ENGINE, LABELS, EngineCollector

FINISHED_REASONS = ("stop", "length", "abort", "error")

# vLLM's bounds, and finer ones below them: our tokens and prompts are often faster than its first.
TTFT_BUCKETS = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.0, 2.5, 5.0),
    *(7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
TOKEN_BUCKETS = (
    *(0.001, 0.002, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3),
    *(0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
LATENCY_BUCKETS = (
    *(0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0),
    *(40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
COUNT_BUCKETS = tuple(digit * 10**power for power in range(7) for digit in (1, 2, 5))
N_BUCKETS = (1, 2, 5, 10, 20, 50, 100)


class Metrics:
    """One registry for each application, so that several can live in one process."""

    def __init__(self, engine: EngineClient, model_name: str) -> None:
        self.registry = CollectorRegistry()
        self._labels = (model_name, ENGINE)
        self.prompt_tokens = self._counter("prompt_tokens", "Prompt tokens processed.")
        self.cached_tokens = self._counter("prompt_tokens_cached", "Prompt tokens from the cache.")
        self.generation_tokens = self._counter("generation_tokens", "Tokens generated.")
        self.success = self._success_counters()
        self.ttft = self._histogram("time_to_first_token_seconds", TTFT_BUCKETS)
        self.itl = self._histogram("inter_token_latency_seconds", TOKEN_BUCKETS)
        self.tpot = self._histogram("request_time_per_output_token_seconds", TOKEN_BUCKETS)
        self.e2e = self._histogram("e2e_request_latency_seconds", LATENCY_BUCKETS)
        self.queue = self._histogram("request_queue_time_seconds", LATENCY_BUCKETS)
        self.prefill = self._histogram("request_prefill_time_seconds", LATENCY_BUCKETS)
        self.decode = self._histogram("request_decode_time_seconds", LATENCY_BUCKETS)
        self.inference = self._histogram("request_inference_time_seconds", LATENCY_BUCKETS)
        self.request_prompt = self._histogram("request_prompt_tokens", COUNT_BUCKETS)
        self.request_generation = self._histogram("request_generation_tokens", COUNT_BUCKETS)
        self.max_generation = self._histogram("request_max_num_generation_tokens", COUNT_BUCKETS)
        self.params_n = self._histogram("request_params_n", N_BUCKETS)
        self.params_max_tokens = self._histogram("request_params_max_tokens", COUNT_BUCKETS)
        self._scraped = self._scraped_registry(EngineCollector(engine, self._labels))

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """The page, and its content type, in the format that the scraper accepts."""
        encode, content_type = choose_encoder(accept)
        return encode(self._scraped), content_type

    def record_prompt(self, num_tokens: Sequence[int]) -> None:
        """One prompt is answered: how many tokens each of its choices has."""
        self.params_n.observe(len(num_tokens))
        self.max_generation.observe(max(num_tokens))

    def _scraped_registry(self, engine: EngineCollector) -> CollectorRegistry:
        """Of all API processes together, where there are several; nothing is then of this one."""
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            together = CollectorRegistry()
            MultiProcessCollector(together)
            together.register(engine)
            return together
        self.registry.register(engine)
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        return self.registry

    def _counter(self, name: str, documentation: str) -> Counter:
        counter = Counter(f"vllm:{name}", documentation, LABELS, registry=self.registry)
        return counter.labels(*self._labels)

    def _success_counters(self) -> dict[str, Counter]:
        counter = Counter(
            "vllm:request_success",
            "Requests that ended, by reason.",
            (*LABELS, "finished_reason"),
            registry=self.registry,
        )
        return {reason: counter.labels(*self._labels, reason) for reason in FINISHED_REASONS}

    def _histogram(self, name: str, buckets: Sequence[float]) -> Histogram:
        documentation = f"{name.replace('_', ' ').capitalize()}."
        histogram = Histogram(
            f"vllm:{name}", documentation, LABELS, buckets=buckets, registry=self.registry
        )
        return histogram.labels(*self._labels)


class RequestRecord:
    """One engine request as the metrics see it: feed it every output, then say how it ended."""

    def __init__(self, metrics: Metrics, request: GenerateRequest) -> None:
        self._metrics = metrics
        self._num_prompt_tokens = len(request.prompt_token_ids)
        self._max_tokens = request.sampling.max_tokens
        self._arrival_s = request.arrival_s
        self._scheduled_s = self._first_s = self._last_s = request.arrival_s
        self.num_tokens = 0

    def add(self, output: TokenOutput) -> None:
        num_new = len(output.token_ids)
        if num_new == 0:
            return
        made_s = output.time_s or time.monotonic()
        if self.num_tokens == 0:
            self._start(output, made_s)
            gaps = num_new - 1
        else:
            gaps = num_new
        for _ in range(gaps):
            self._metrics.itl.observe((made_s - self._last_s) / gaps)
        self._last_s = made_s
        self.num_tokens += num_new
        self._metrics.generation_tokens.inc(num_new)

    def finish(self, reason: str) -> None:
        """Requests that were aborted or failed are counted, and left out of the histograms."""
        self._metrics.success[reason].inc()
        if reason not in ("stop", "length"):
            return
        metrics = self._metrics
        metrics.e2e.observe(time.monotonic() - self._arrival_s)
        metrics.queue.observe(self._scheduled_s - self._arrival_s)
        metrics.prefill.observe(self._first_s - self._scheduled_s)
        metrics.decode.observe(self._last_s - self._first_s)
        metrics.inference.observe(self._last_s - self._scheduled_s)
        if self.num_tokens > 1:
            metrics.tpot.observe((self._last_s - self._first_s) / (self.num_tokens - 1))
        metrics.request_prompt.observe(self._num_prompt_tokens)
        metrics.request_generation.observe(self.num_tokens)
        metrics.params_max_tokens.observe(self._max_tokens)

    def _start(self, output: TokenOutput, made_s: float) -> None:
        self._first_s = self._last_s = made_s
        self._scheduled_s = self._arrival_s if output.scheduled_s is None else output.scheduled_s
        self._metrics.ttft.observe(made_s - self._arrival_s)
        self._metrics.prompt_tokens.inc(self._num_prompt_tokens)
        self._metrics.cached_tokens.inc(output.num_cached_tokens)
