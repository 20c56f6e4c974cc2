"""Exact counts, in vLLM's names, labels and buckets."""

from dataclasses import replace

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from qoq.engine.protocol import EngineDeadError, EngineStats
from qoq.server.metrics import COUNT_BUCKETS, LATENCY_BUCKETS, TOKEN_BUCKETS, TTFT_BUCKETS

# Bounds of vLLM's histograms (v1, 2025), which ours must hold for its dashboards to work.
VLLM_TTFT = [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0]
VLLM_TTFT += [7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0]
VLLM_TOKEN = [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5]
VLLM_TOKEN += [10.0, 20.0, 40.0, 80.0]
VLLM_LATENCY = [0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0]
VLLM_LATENCY += [120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0]
VLLM_COUNTS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000]

LABELS = {"model_name": "fake", "engine": "0"}
BODY = {"model": "fake", "prompt": [1, 2, 3, 4, 5, 6, 7], "max_tokens": 10, "ignore_eos": True}


class Page(dict[tuple[str, str], float]):
    """Samples by name and, where there is one, the label beside the usual two."""

    @classmethod
    async def of(cls, client: httpx.AsyncClient) -> "Page":
        text = (await client.get("/metrics")).text
        page = cls()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                extra = {k: v for k, v in sorted(sample.labels.items()) if k not in LABELS}
                if sample.name.startswith("vllm:") and "cache_config" not in sample.name:
                    assert LABELS.items() <= sample.labels.items(), sample
                page[sample.name, ",".join(extra.values())] = sample.value
        return page

    def of_vllm(self, name: str, label: str = "") -> float:
        return self[f"vllm:{name}", label]


@pytest.mark.parametrize("tokens_per_output", [1, 3, 10])
@pytest.mark.parametrize("stream", [False, True])
async def test_ten_sequential_requests(
    client, engine, stream: bool, tokens_per_output: int
) -> None:
    engine.tokens_per_output = tokens_per_output
    for _ in range(10):
        answer = await client.post("/v1/completions", json=BODY | {"stream": stream})
        assert answer.status_code == 200
    page = await Page.of(client)
    assert page.of_vllm("time_to_first_token_seconds_count") == 10
    assert page.of_vllm("inter_token_latency_seconds_count") == 90
    assert page.of_vllm("prompt_tokens_total") == 70
    assert page.of_vllm("generation_tokens_total") == 100
    assert page.of_vllm("request_success_total", "length") == 10
    for reason in ("stop", "abort", "error"):
        assert page.of_vllm("request_success_total", reason) == 0
    for name in (
        "request_time_per_output_token_seconds",
        "e2e_request_latency_seconds",
        "request_queue_time_seconds",
        "request_prefill_time_seconds",
        "request_decode_time_seconds",
        "request_inference_time_seconds",
        "request_prompt_tokens",
        "request_generation_tokens",
        "request_max_num_generation_tokens",
        "request_params_n",
        "request_params_max_tokens",
    ):
        assert page.of_vllm(f"{name}_count") == 10, name
    assert page.of_vllm("request_prompt_tokens_sum") == 70
    assert page.of_vllm("request_generation_tokens_sum") == 100
    assert page.of_vllm("kv_cache_usage_perc") == 0.0
    assert page.of_vllm("num_requests_running") == 0
    assert page.of_vllm("num_requests_waiting") == 0


async def test_first_gap_and_the_rest_add_up(client, engine) -> None:
    """TTFT and the gaps sum to the time to the last token, so a gap of k tokens is k of 1/k."""
    engine.delay_s, engine.tokens_per_output = 0.02, 5
    await client.post("/v1/completions", json=BODY)
    page = await Page.of(client)
    ttft = page.of_vllm("time_to_first_token_seconds_sum")
    gaps = page.of_vllm("inter_token_latency_seconds_sum")
    assert page.of_vllm("request_decode_time_seconds_sum") == pytest.approx(gaps)
    assert 0.02 <= gaps < 0.04 + 0.05
    assert ttft >= 0.02
    # Four tokens came with the first, at once; the other five shared one wait of 0.02 s.
    assert page.of_vllm("inter_token_latency_seconds_bucket", "0.001") == 4
    e2e = page.of_vllm("e2e_request_latency_seconds_sum")
    assert ttft + gaps == pytest.approx(e2e, abs=0.02)


async def test_everything_is_there_before_the_first_request(client) -> None:
    page = await Page.of(client)
    for reason in ("stop", "length", "abort", "error"):
        assert page.of_vllm("request_success_total", reason) == 0
    for name in ("prompt_tokens_total", "generation_tokens_total", "num_preemptions_total"):
        assert page.of_vllm(name) == 0
    assert page.of_vllm("inter_token_latency_seconds_count") == 0
    assert page["process_start_time_seconds", ""] > 0
    assert page["vllm:cache_config_info", "16,w4a8kv4,0,64"] == 1


async def test_choices_and_stops(client, engine) -> None:
    """Three choices are three requests; n is observed once."""
    engine.say("four STOP")
    body = {"model": "fake", "prompt": "Hi", "n": 3, "max_tokens": 50}
    await client.post("/v1/completions", json=body | {"stop": "STOP"})
    page = await Page.of(client)
    assert page.of_vllm("request_success_total", "stop") == 3
    assert page.of_vllm("time_to_first_token_seconds_count") == 3
    assert page.of_vllm("request_params_n_count") == 1
    assert page.of_vllm("request_params_n_sum") == 3
    assert page.of_vllm("request_params_max_tokens_sum") == 150
    assert page.of_vllm("generation_tokens_total") == 27


async def test_failed_requests_are_counted_apart(client, engine) -> None:
    engine.dies_at = 4
    assert (await client.post("/v1/completions", json=BODY)).status_code == 503
    page = await Page.of(client)
    assert page.of_vllm("request_success_total", "error") == 1
    assert page.of_vllm("request_success_total", "length") == 0
    assert page.of_vllm("generation_tokens_total") == 4
    assert page.of_vllm("e2e_request_latency_seconds_count") == 0


async def test_engine_gauges_and_counters_over_a_restart(client, engine, monkeypatch) -> None:
    """A new engine process counts from zero again; what Prometheus sees only rises."""
    engine.counters = EngineStats(
        num_waiting=3, kv_cache_usage=0.5, num_preemptions=7, prefix_cache_queries=100
    )
    page = await Page.of(client)
    assert page.of_vllm("num_requests_waiting") == 3
    assert page.of_vllm("kv_cache_usage_perc") == 0.5
    assert page.of_vllm("num_preemptions_total") == 7

    def dead() -> EngineStats:
        raise EngineDeadError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(engine, "stats", dead)
        page = await Page.of(client)
        assert page.of_vllm("num_requests_waiting") == 0
        assert page.of_vllm("num_preemptions_total") == 7

    engine.counters = replace(engine.counters, num_preemptions=2, prefix_cache_queries=130)
    for _ in range(2):
        page = await Page.of(client)
        assert page.of_vllm("num_preemptions_total") == 9
        assert page.of_vllm("prefix_cache_queries_total") == 130


async def test_swapped_blocks_are_counted_in_bytes(client, engine) -> None:
    """Also over a restart, and while the new engine has not said yet what a block takes."""
    engine.info = replace(engine.info, num_host_blocks=8, block_bytes=1000)
    engine.counters = EngineStats(num_blocks_swapped_out=5, num_blocks_swapped_in=2)
    page = await Page.of(client)
    assert page["vllm:cache_config_info", "16,w4a8kv4,8,64"] == 1
    assert page.of_vllm("kv_offload_store_bytes_total") == 5000
    assert page.of_vllm("kv_offload_load_bytes_total") == 2000
    engine.counters = EngineStats(num_blocks_swapped_out=1)
    engine.is_ready = False
    page = await Page.of(client)
    assert page.of_vllm("kv_offload_store_bytes_total") == 6000
    assert page.of_vllm("kv_offload_load_bytes_total") == 2000


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (TTFT_BUCKETS, VLLM_TTFT),
        (TOKEN_BUCKETS, VLLM_TOKEN),
        (LATENCY_BUCKETS, VLLM_LATENCY),
        (COUNT_BUCKETS, VLLM_COUNTS),
    ],
)
def test_vllm_bucket_bounds_are_ours_too(ours: tuple, theirs: list) -> None:
    assert set(theirs) <= set(ours)
    assert list(ours) == sorted(ours)


async def test_openmetrics_where_it_is_asked_for(client) -> None:
    headers = {"accept": "application/openmetrics-text; version=1.0.0"}
    answer = await client.get("/metrics", headers=headers)
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")
    plain = await client.get("/metrics")
    assert plain.headers["content-type"].startswith("text/plain")
