import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from qoq.engine.benchmarks.bench_engine import BenchEngine
from qoq.engine.benchmarks.breakdown import profile_steps
from qoq.engine.benchmarks.offline_load import OfflineLoad
from qoq.engine.benchmarks.roofline import Ceilings
from qoq.engine.benchmarks.throughput import measure_throughput
from qoq.engine.benchmarks.trace import Interval

from .shapes import BLOCK_BYTES, on_cpu


def test_the_automatic_batch_fills_the_cache(shape: Path):
    """A request of 60 + 10 tokens takes two blocks; of 11 one is left over."""
    result = measure_throughput(on_cpu(shape, num_blocks=11), OfflineLoad(60, 10), False)
    assert result.batch == 5
    assert result.kv_bytes == 10 * BLOCK_BYTES
    assert result.roofline is None and result.breakdowns == ()
    assert (result.model, result.device, result.precision) == ("tiny", "cpu", "w4a8kv4")


def test_the_three_rates_agree_with_each_other(shape: Path):
    """One prompt: 1 token comes with its prefill, 39 in the rest of the time."""
    result = measure_throughput(on_cpu(shape), OfflineLoad(100, 40, batch=1), False)
    prefill_s, decode_s = 100 / result.prefill, 39 / result.rate.decode
    assert prefill_s + decode_s == pytest.approx(40 / result.rate.total)


def test_a_breakdown_has_both_phases_with_the_host_s_times(shape: Path):
    decode, prefill = measure_throughput(
        on_cpu(shape), OfflineLoad(100, 40, batch=3), True
    ).breakdowns
    assert decode.name == "decode, 3 requests at 120 tokens"
    assert prefill.name == "prefill, up to 512 tokens of prompts of 100"
    for step in (decode, prefill):
        host = step.host.schedule_us + step.host.submit_us + step.host.update_us
        assert 0 < host < step.step_us and step.device is None
        assert step.roofline_us is None


def test_where_the_card_s_ceilings_are_known_there_is_a_roofline(
    shape: Path, monkeypatch: pytest.MonkeyPatch
):
    """At 1 TB/s and no end of products: 4 layers' GEMMs and 3 requests' 120 tokens of KV."""
    module = "qoq.engine.benchmarks.throughput"
    monkeypatch.setattr(f"{module}.runs_on_gpu", lambda config: True)
    monkeypatch.setattr(f"{module}.measure_ceilings", lambda: Ceilings(1.0, 1e9))
    result = measure_throughput(on_cpu(shape), OfflineLoad(100, 40, batch=3), True)
    weights = 2 * 147_456 * (0.5 + 4 / 128) + 96 * 128
    least_us = (weights + 3 * 120 * 2 * 72) * 1e-6
    assert result.breakdowns[0].roofline_us == pytest.approx(least_us)
    # All three decode together, around that context.
    assert result.roofline == pytest.approx(3 / least_us * 1e6, rel=0.01)


def test_a_profile_is_divided_by_the_steps_that_were_submitted(
    shape: Path, monkeypatch: pytest.MonkeyPatch
):
    def trace(run: Callable[[], object]) -> list[Interval]:
        run()
        return [Interval("gemm", 0, 30), Interval("norm", 20, 60), Interval("norm", 70, 100)]

    monkeypatch.setattr("qoq.engine.benchmarks.breakdown.trace", trace)
    engine = BenchEngine(on_cpu(shape))
    engine.hold(2, 50)
    device = profile_steps(engine, 10)
    engine.release()
    engine.close()
    assert device is not None
    assert (device.step_us, device.busy_us) == (10, 9)
    assert device.gap_share == pytest.approx(0.1)
    assert [(kernel.name, kernel.us) for kernel in device.kernels] == [("norm", 7), ("gemm", 3)]


def test_a_driver_that_lets_nobody_profile_costs_the_kernel_times_only(
    shape: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr("qoq.engine.benchmarks.breakdown.trace", lambda run: run() and [])
    engine = BenchEngine(on_cpu(shape))
    engine.hold(2, 50)
    assert profile_steps(engine, 10) is None
    assert "the profiler saw no kernel" in caplog.text
    engine.release()
    engine.close()


@pytest.mark.parametrize(
    ("load", "message"),
    [
        (OfflineLoad(500, 13), "--input-len 500 and --output-len 13 together exceed .* 512 tokens"),
        (OfflineLoad(10, 10, batch=513), "--batch 513 exceeds the 512 tokens of a step; raise --m"),
        (
            OfflineLoad(60, 10, batch=6),
            "--batch 6 does not fit: the KV cache has 11 blocks of 64 tokens and a request of 70 "
            "tokens takes 2, so at most 5 fit; lower --batch, --input-len or --output-len",
        ),
    ],
    ids=["context", "step", "cache"],
)
def test_a_load_that_does_not_fit_is_refused_with_the_numbers(
    shape: Path, load: OfflineLoad, message: str
):
    with pytest.raises(ValueError, match=message):
        measure_throughput(on_cpu(shape, num_blocks=11), load, False)


@pytest.mark.parametrize("lengths", [(0, 2, 1), (1, 1, 1), (1, 2, 0)], ids=str)
def test_a_load_without_a_rate_is_refused_by_name(lengths: tuple[int, int, int]):
    with pytest.raises(ValueError, match="--(input-len|output-len|batch): expected at least"):
        OfflineLoad(*lengths)


def test_without_a_gpu_no_gpu_kernel_is_imported(shape: Path):
    """They need triton, which a machine without a GPU may lack."""
    code = f"""
import sys
sys.modules["triton"] = None
from pathlib import Path
from qoq.engine.benchmarks import latency, offline_load, sweep, throughput
from qoq.engine.config import EngineConfig
config = EngineConfig(model=Path({str(shape)!r}), load_format="dummy", device="cpu")
throughput.measure_throughput(config, offline_load.OfflineLoad(8, 2, 1), True)
print([name for name in sys.modules if name.startswith(("qoq.kernels.gpu", "qoq.engine.gpu"))])
"""
    run = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == "[]", run.stderr[-2000:]


@pytest.mark.gpu
def test_on_a_gpu_it_has_a_roofline_and_kernels():
    from qoq.engine.config import EngineConfig

    config = EngineConfig(
        model=Path("llama-3-8b"), load_format="dummy", kv_cache_bytes=2**30, max_num_seqs=16
    )
    result = measure_throughput(config, OfflineLoad(128, 64), True)
    assert result.roofline is not None and 0 < result.rate.decode < result.roofline
    assert result.breakdowns[0].roofline_us
    for step in result.breakdowns:
        assert step.device is not None and 0 <= step.device.gap_share < 1
        assert step.device.busy_us > 0 and len(step.device.kernels) > 5
