"""The kernels around attention and GEMMs: equal to their definitions, compiled without a spill."""

from typing import Any

import pytest
import torch

from qoq.kernels.gpu.attention.decode_plan import DecodePlan
from qoq.kernels.kv_cache import KvFormat, SlotMapping

pytest.importorskip("triton", reason="needs triton, which torch's CPU builds leave out")

from qoq.kernels.gpu import rms_norm, rope_store_kv, silu_mul
from qoq.kernels.gpu.attention import merge_partials
from qoq.kernels.gpu.quantized_rows import QuantizedRows

from .interpreted import assert_equal_under_the_interpreter
from .sass import assemble, compile_ahead

TYPES = {
    "x_ptr": "*fp16",
    "residual_ptr": "*fp16",
    "gain_ptr": "*fp16",
    "q_gain_ptr": "*fp16",
    "k_gain_ptr": "*fp16",
    "qkv_ptr": "*fp16",
    "q_ptr": "*fp16",
    "out_ptr": "*fp16",
    "rope_ptr": "*fp32",
    "scale_ptr": "*fp32",
    "partial_ptr": "*fp32",
    "stat_ptr": "*fp32",
    "sum_ptr": "*i32",
    "request_ptr": "*i32",
    "arrival_ptr": "*i32",
    "block_ptr": "*i64",
    "offset_ptr": "*i64",
    "code_ptr": "*u8",
    "stride_x": "i32",
    "stride_residual": "i32",
    "stride_qkv": "i32",
    "NUM_BLOCKS": "i32",
    "NUM_ITEMS": "i32",
    "eps": "fp32",
}
MERGE = {
    "HEADS": 32,
    "D": 128,
    "D_BLOCK": 128,
    "ROW_BLOCK": 4096,
    "PER_GROUP": 8,
    "LINES": 32,
    "QUANTIZES": True,
}


def merge_of(num_requests: int) -> tuple[Any, dict[str, Any], int]:
    config = merge_partials.MergeConfig.of(num_requests, 4096)
    constants = {"PER_PROGRAM": config.heads, "GROUPS": config.groups, "AHEAD": config.ahead}
    return merge_partials._merge_kernel, MERGE | constants, config.num_warps


ROPE = {
    "D": 128,
    "HALF": 64,
    "HEADS": 32,
    "Q_LINES": 32,
    "KV_HEADS": 8,
    "KV_LINES": 16,
    "TILE": 64,
    "FP16_LIMIT": 65504.0,
}
KERNELS: dict[str, tuple[Any, dict[str, Any], int]] = {
    "rms": (
        rms_norm._add_rms_norm_quantize_kernel,
        {"K": 4096, "BLOCK": 4096, "ADDS": True},
        8,
    ),
    "plain_rms": (
        rms_norm._add_rms_norm_kernel,
        {"K": 4096, "BLOCK": 4096, "ADDS": True},
        8,
    ),
    "silu": (silu_mul._silu_mul_quantize_kernel, {"K": 14336, "BLOCK": 16384}, 16),
    "rope4": (
        rope_store_kv._rope_store_kv_kernel,
        ROPE | {"BITS": 4, "NORMS": True},
        4,
    ),
    "rope8": (
        rope_store_kv._rope_store_kv_kernel,
        ROPE | {"BITS": 8, "NORMS": False},
        4,
    ),
    "merge_heads_1": merge_of(1),
    "merge_heads_17": merge_of(17),
    "merge_rows": merge_of(132),
}


def test_equal_their_definitions_under_the_interpreter() -> None:
    assert_equal_under_the_interpreter("fused_interpreted.py")


@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 89, 90])
@pytest.mark.parametrize("name", KERNELS)
def test_compiles_without_a_spill(name: str, arch: int) -> None:
    kernel, constants, warps = KERNELS[name]
    used = {arg: kind for arg, kind in TYPES.items() if arg in kernel.arg_names}
    aligned = [arg for arg, kind in used.items() if kind[0] == "*" or arg.startswith("stride")]
    compiled = compile_ahead(kernel, arch, used, constants, aligned, num_warps=warps)
    assert "0 bytes spill stores" in assemble(compiled.asm["ptx"], arch)


def test_norm_refuses_what_does_not_match() -> None:
    norm = rms_norm.add_rms_norm_quantize_triton
    rows, gain = torch.ones(2, 8), torch.ones(8)
    with pytest.raises(ValueError, match="gain: expected"):
        norm(None, rows, gain[1:], 1e-5)
    with pytest.raises(ValueError, match="residual: expected"):
        norm(None, rows.t(), gain[:2], 1e-5)
    with pytest.raises(ValueError, match="x: expected"):
        norm(rows[1:], rows, gain, 1e-5)


@pytest.mark.parametrize("shape", [(2, 7), (2, 2, 4)])
def test_silu_refuses_what_has_no_halves(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="gate_up: expected"):
        silu_mul.silu_mul_quantize_triton(torch.ones(shape))


def test_rope_refuses_what_does_not_match() -> None:
    fmt = KvFormat(2, 32)
    cache, places = fmt.allocate(2), torch.zeros(3, dtype=torch.int64)
    qkv, rope, slots = torch.ones(3, 8, 32), torch.ones(3, 3, 16), SlotMapping(places, places)

    def refused(message: str, *args: Any) -> None:
        with pytest.raises(ValueError, match=message):
            rope_store_kv.rope_store_kv_triton(*args)

    refused("qkv: expected", qkv[:, :4], rope, cache, slots, fmt)
    strided = qkv.transpose(1, 2).contiguous().transpose(1, 2)
    refused("qkv: expected contiguous", strided, rope, cache, slots, fmt)
    refused("rope: expected", qkv, rope.double(), cache, slots, fmt)
    refused("slots.offsets: expected", qkv, rope, cache, slots._replace(offsets=places[1:]), fmt)
    refused("slots.blocks: expected", qkv, rope, cache, slots._replace(blocks=places.int()), fmt)
    cut = cache._replace(blocks=cache.blocks[:, 1:])
    refused("cache: expected", qkv, rope, cut, slots, fmt)
    refused("fmt: expected", qkv, rope, cache, slots, KvFormat(2, 32, None, torch.float16))


def test_merge_refuses_more_requests_than_planned() -> None:
    plan = DecodePlan.allocate(
        2, 8, 100, num_heads=4, num_kv_heads=2, head_dim=32, device=torch.device("cpu")
    )
    with pytest.raises(ValueError, match="out: 3 rows, the plan has 2"):
        rows = QuantizedRows.allocate(3, 4 * 32, torch.device("cpu"))
        merge_partials.merge_quantize(plan, torch.empty(0), rows)


@pytest.mark.parametrize("row", [576, 4096, 16384])
def test_a_model_compiles_three_merges_at_most(row: int) -> None:
    configs = [merge_partials.MergeConfig.of(rows, row) for rows in range(1, 513)]
    assert len(set(configs)) == 3
    assert configs[15] != configs[16] and configs[126] != configs[127]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_equal_their_definitions_on_a_gpu() -> None:
    from .fused_cases import check_all

    check_all("cuda", (torch.float16, torch.bfloat16, torch.float32))
