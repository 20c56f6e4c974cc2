"""What the engine counts itself, read when Prometheus scrapes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from qoq.engine.protocol import EngineClient, EngineDeadError, EngineStats

LABELS = ("model_name", "engine")
ENGINE = "0"

# By their name in EngineStats.
_ENGINE_COUNTERS = {
    "num_preemptions": "Requests preempted.",
    "prefix_cache_queries": "Prompt tokens looked up in the prefix cache.",
    "prefix_cache_hits": "Prompt tokens found in the prefix cache.",
}
# What the engine counts in blocks, and Prometheus in bytes.
_BYTE_COUNTERS = {
    "num_blocks_swapped_out": ("kv_offload_store_bytes", "Bytes of KV copied to host memory."),
    "num_blocks_swapped_in": ("kv_offload_load_bytes", "Bytes of KV copied from host memory."),
}


class EngineCollector(Collector):
    """Counters go on from where they were when a new engine process starts from 0."""

    def __init__(self, engine: EngineClient, labels: Sequence[str]) -> None:
        self._engine = engine
        self._labels = labels
        self._last = EngineStats()
        self._before_restart: dict[str, int] = {}
        self._block_bytes = 0

    def describe(self) -> Iterable[Metric]:
        return []  # the names are known without asking the engine

    def collect(self) -> Iterator[Metric]:
        stats = self._stats()
        yield self._gauge("num_requests_running", "Requests running.", stats.num_running)
        yield self._gauge("num_requests_waiting", "Requests waiting.", stats.num_waiting)
        yield self._gauge("kv_cache_usage_perc", "KV cache in use, 0 to 1.", stats.kv_cache_usage)
        for name, documentation in _ENGINE_COUNTERS.items():
            yield self._counter(name, documentation, self._total(name, stats))
        if self._engine.health().is_ready:
            self._block_bytes = self._engine.info.block_bytes
            yield self._cache_config()
        for blocks, (name, documentation) in _BYTE_COUNTERS.items():
            total = self._total(blocks, stats) * self._block_bytes
            yield self._counter(name, documentation, total)
        self._last = stats

    def _stats(self) -> EngineStats:
        try:
            return self._engine.stats()
        except EngineDeadError:
            return replace(self._last, num_running=0, num_waiting=0, kv_cache_usage=0.0)

    def _gauge(self, name: str, documentation: str, value: float) -> Metric:
        family = GaugeMetricFamily(f"vllm:{name}", documentation, labels=LABELS)
        family.add_metric(self._labels, value)
        return family

    def _counter(self, name: str, documentation: str, value: int) -> Metric:
        family = CounterMetricFamily(f"vllm:{name}", documentation, labels=LABELS)
        family.add_metric(self._labels, value)
        return family

    def _total(self, name: str, stats: EngineStats) -> int:
        """Of this engine process and the ones before it; called once a scrape."""
        value: int = getattr(stats, name)
        last: int = getattr(self._last, name)
        if value < last:
            self._before_restart[name] = self._before_restart.get(name, 0) + last
        return self._before_restart.get(name, 0) + value

    def _cache_config(self) -> Metric:
        info = self._engine.info
        labels = {
            "engine": ENGINE,
            "block_size": str(info.block_size),
            "num_gpu_blocks": str(info.num_blocks),
            "num_cpu_blocks": str(info.num_host_blocks),
            "cache_dtype": info.precision,
        }
        family = GaugeMetricFamily("vllm:cache_config_info", "The KV cache.", labels=list(labels))
        family.add_metric(list(labels.values()), 1)
        return family
