from pathlib import Path

import pytest
import torch

from qoq.engine.benchmarks.model_size import model_size
from qoq.engine.benchmarks.roofline import Ceilings, decode_rate, decode_step_us, measure_ceilings

from .shapes import on_cpu

# Of the tiny shape: qkv 256x128, o 128x128, gate_up 512x128, down 128x256, twice; head 96x128.
LAYER_WEIGHTS, HEAD_WEIGHTS = 2 * (256 * 128 + 128 * 128 + 512 * 128 + 128 * 256), 96 * 128
KV_BYTES_A_TOKEN = 2 * 72


def test_memory_bounds_a_small_batch(shape: Path):
    """At 1 TB/s a byte takes 1e-6 us."""
    us = decode_step_us(model_size(on_cpu(shape)), Ceilings(1.0, 1e9), batch=2, context=100)
    weights = LAYER_WEIGHTS * (0.5 + 4 / 128) + HEAD_WEIGHTS
    assert us == pytest.approx((weights + 2 * 100 * KV_BYTES_A_TOKEN) * 1e-6)


def test_products_bound_a_large_one(shape: Path):
    us = decode_step_us(model_size(on_cpu(shape)), Ceilings(1e9, 1.0), batch=300, context=1)
    products = 2 * 300 * (LAYER_WEIGHTS + HEAD_WEIGHTS)
    assert us == pytest.approx(products * 1e-6)


def test_each_gemm_has_the_larger_of_its_own_two_times(shape: Path):
    """At batch 4 layers (0.53 bytes a weight) wait for products, the INT8 head for memory."""
    us = decode_step_us(model_size(on_cpu(shape)), Ceilings(1.0, 10.0), batch=4, context=0)
    assert us == pytest.approx((2 * 4 * LAYER_WEIGHTS / 10 + HEAD_WEIGHTS) * 1e-6)


def test_the_rate_is_that_of_the_steps_that_decode_counts(shape: Path):
    """After 2 s: two tokens at contexts 101 and 102, then one at 102, the second's third."""
    size, ceilings = model_size(on_cpu(shape)), Ceilings(1.0, 1e9)
    rate = decode_rate(size, ceilings, 100, [[1.0, 2.0, 3.0], [2.0, 3.0, 4.0]])
    both = decode_step_us(size, ceilings, 2, 101.5)
    last = decode_step_us(size, ceilings, 1, 102)
    assert rate == pytest.approx(3 / (both + last) * 1e6)


@pytest.mark.gpu
def test_ceilings_are_those_of_a_data_center_card_and_leave_the_memory_free():
    free, _ = torch.cuda.mem_get_info()
    ceilings = measure_ceilings()
    assert 0.5 < ceilings.bandwidth < 20 and 100 < ceilings.products < 20000
    assert torch.cuda.mem_get_info()[0] > free - 2**29, "cuBLAS workspaces and modules at most"
