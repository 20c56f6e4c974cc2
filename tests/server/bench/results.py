"""Results as a GPU would give them."""

from __future__ import annotations

from qoq.engine.benchmarks.breakdown import DeviceTimes, StepBreakdown
from qoq.engine.benchmarks.offline_load import OfflineLoad
from qoq.engine.benchmarks.rate import Rate
from qoq.engine.benchmarks.roofline import Ceilings
from qoq.engine.benchmarks.step_times import HostTimes
from qoq.engine.benchmarks.sweep import Cell, Sweep
from qoq.engine.benchmarks.throughput import Throughput
from qoq.engine.benchmarks.trace import Kernel

KERNELS = (
    Kernel("_w4a8_gemm_kernel", 128.0, 7000.0, 0.7),
    Kernel("x" * 200, 32.0, 2990.0, 0.299),
    Kernel("Memcpy HtoD", 3.0, 6.0, 0.0006),
    Kernel("fill", 2.0, 4.0, 0.0004),
)
DECODE = StepBreakdown(
    "decode, 256 requests at 1280 tokens",
    10100.0,
    HostTimes(100.0, 200.0, 50.0),
    DeviceTimes(10200.0, 9996.0, KERNELS),
    5050.0,
)
THROUGHPUT = Throughput(
    model="llama-3-8b",
    precision="w4a8kv4",
    device="A GPU",
    load=OfflineLoad(1024, 512),
    batch=256,
    rate=Rate(decode=25000.0, total=16000.0),
    prefill=61000.0,
    ready_s=12.0,
    weight_bytes=5 * 2**30,
    kv_bytes=13 * 2**30,
    ceilings=Ceilings(2.99, 1400.0),
    roofline=50000.0,
    breakdowns=(DECODE,),
)
SWEEP = Sweep(
    "llama-3-8b",
    "w4a8kv4",
    "A GPU",
    (Cell(1, 512, 400.0), Cell(64, 512, 12345.6), Cell(1, 1024, 390.0), Cell(64, 1024, None)),
)
