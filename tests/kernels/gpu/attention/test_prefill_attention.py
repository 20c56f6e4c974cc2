"""Prefill attention: under the interpreter, what it compiles to, and on a GPU."""

from typing import Any

import pytest
import torch

from qoq.kernels.kv_cache import KvFormat

triton = pytest.importorskip("triton", reason="needs triton, which torch's CPU builds leave out")

from qoq.kernels.bench.attention_case import make_case  # noqa: E402
from qoq.kernels.gpu.attention import prefill_attention as module  # noqa: E402
from qoq.kernels.gpu.attention.dequantize_kv import _dequantize_kernel  # noqa: E402
from qoq.kernels.gpu.attention.prefill_attention import (  # noqa: E402
    prefill_attention,
    prefill_config,
    scratch_width,
)
from qoq.kernels.gpu.attention.prefill_gluon import REGISTERS, HopperPrefill, _layout  # noqa: E402
from qoq.kernels.gpu.attention.prefill_gluon_kernel import _prefill_hopper_kernel  # noqa: E402
from qoq.kernels.gpu.attention.prefill_plan import BLOCK, ROWS, plan_prefill  # noqa: E402
from qoq.kernels.gpu.attention.prefill_triton import PrefillTile, _prefill_kernel  # noqa: E402
from qoq.kernels.kv_cache import FP16_MAX  # noqa: E402

from ..interpreted import assert_equal_under_the_interpreter  # noqa: E402
from ..sass import assemble, compile_ahead, main_loop  # noqa: E402

SHARED_MEMORY = {80: 163 << 10, 89: 99 << 10, 90: 227 << 10}


def test_is_within_bounds_under_the_interpreter() -> None:
    assert_equal_under_the_interpreter("attention/prefill_interpreted.py")


@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 89, 90])
@pytest.mark.parametrize(("head_dim", "bits"), [(64, 4), (96, 8), (128, 4), (256, 4)])
def test_dequantization_compiles(arch: int, head_dim: int, bits: int) -> None:
    constants = {
        "BITS": bits,
        "D": head_dim,
        "COLUMNS": triton.next_power_of_2(head_dim * bits // 8),
        "WIDTH": scratch_width(head_dim),
        "HEADS": 8,
        "TOKENS": BLOCK,
        "FP16_MAX": FP16_MAX,
    }
    pointers = {"code_ptr": "*u8", "scale_ptr": "*fp16", "out_ptr": "*fp16"}
    pointers |= dict.fromkeys(["table_ptr", "block_ptr"], "*i32")
    sizes = dict.fromkeys(["NUM_BLOCKS", "TABLE_WIDTH", "first_head", "num_rows"], "i32")
    aligned = [*pointers, "num_rows"]
    compiled = compile_ahead(
        _dequantize_kernel, arch, pointers | sizes, constants, aligned, num_warps=4
    )
    assert "0 bytes spill stores" in assemble(compiled.asm["ptx"], arch)
    assert "st.global.v4" in compiled.asm["ptx"]


@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 89])
@pytest.mark.parametrize("head_dim", [64, 128, 256])
@pytest.mark.parametrize("has_window", [False, True])
def test_fits_and_keeps_its_loop_in_registers(arch: int, head_dim: int, has_window: bool) -> None:
    """Sums of 256 columns exceed the registers of 8 warps; those spill a little."""
    config = prefill_config(head_dim, arch)
    assert isinstance(config, PrefillTile)
    compiled = compile_triton(arch, head_dim, config, has_window)
    opcodes = {line.split()[0].split(".")[0] for line in main_loop(compiled.asm["cubin"])}
    assert "HMMA" in opcodes
    assert head_dim == 256 or not {"STL", "LDL", "STS"} & opcodes
    assert compiled.metadata.shared <= SHARED_MEMORY[arch]


@pytest.mark.slow
@pytest.mark.parametrize("head_dim", [64, 96, 128, 256])
@pytest.mark.parametrize("has_window", [False, True])
def test_loop_is_clean_on_hopper(head_dim: int, has_window: bool) -> None:
    """Nothing but multiplications and softmax: no spill, no pass through shared memory, and no
    wait that ptxas put in.
    """
    config = prefill_config(head_dim, 90)
    assert isinstance(config, HopperPrefill)
    compiled = compile_hopper(head_dim, config, has_window)
    loop = main_loop(compiled.asm["cubin"])
    opcodes = {line.split()[0].split(".")[0] for line in loop}
    assert "HGMMA" in opcodes
    assert not {"STL", "LDL", "STS", "LDS", "PRMT"} & opcodes
    assert sum("WARPGROUP.DEPBAR" in line for line in loop) == 2
    assert "C75" not in assemble(compiled.asm["ptx"], 90)
    assert compiled.metadata.shared <= SHARED_MEMORY[90]


def compile_triton(arch: int, head_dim: int, config: PrefillTile, has_window: bool) -> Any:
    constants = {
        "D": head_dim,
        "WIDTH": scratch_width(head_dim),
        "HEADS": 8,
        "GROUP": 4,
        "TILE": config.tile,
        "ROWS": ROWS,
        "HAS_WINDOW": has_window,
    }
    pointers = dict.fromkeys(["q_ptr", "scratch_ptr", "out_ptr"], "*fp16")
    pointers["program_ptr"] = "*i32"
    sizes = dict.fromkeys(["num_rows", "first_head", "window"], "i32") | {"score_scale": "fp32"}
    return compile_ahead(
        _prefill_kernel,
        arch,
        pointers | sizes,
        constants,
        [*pointers, "num_rows"],
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )


def compile_hopper(head_dim: int, config: HopperPrefill, has_window: bool) -> Any:
    box = f"{config.tile}, {scratch_width(head_dim)}"
    signature = {
        "kv_desc": f"tensordesc<fp16[{box}],{_layout()!r}>",
        "q_ptr": "*bf16",
        "out_ptr": "*bf16",
        "program_ptr": "*i32",
        "score_scale": "fp32",
    }
    sizes = ["num_programs", "num_items", "num_rows", "first_head", "window"]
    constants = {
        "D": head_dim,
        "HEADS": 8,
        "GROUP": 4,
        "STAGES": config.num_stages,
        "HAS_WINDOW": has_window,
        "ISSUES_FIRST": config.issues_first,
        "REGISTERS": REGISTERS,
    }
    return compile_ahead(
        _prefill_hopper_kernel,
        90,
        signature | dict.fromkeys(sizes, "i32"),
        constants,
        ["q_ptr", "out_ptr", "program_ptr"],
        num_warps=4,
    )


def test_a_scratch_too_large_is_filled_some_heads_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fmt = KvFormat(6, 128)
    assert module._passes(1024, fmt) == [range(6)]
    monkeypatch.setattr(module, "SCRATCH_BYTES", 4 * 2 * 1024 * 128 * 2)
    assert module._passes(1024, fmt) == [range(3), range(3, 6)]
    assert module._passes(1 << 20, fmt) == [range(head, head + 1) for head in range(6)]


def test_nothing_to_attend_to_launches_nothing() -> None:
    case = make_case([3], (4, 2), 32, device="cpu")
    out = prefill_attention(
        torch.ones(0, 4, 32), case.cache, case.tables, plan_prefill([0], [3], 4, 2), case.fmt, 1.0
    )
    assert out.shape == (0, 4, 32)


def test_refuses_what_does_not_match() -> None:
    case = make_case([3], (4, 2), 32, device="cpu")
    plan, q = plan_prefill([3], [3], 4, 2), torch.ones(3, 4, 32)

    def refused(message: str, *args: Any) -> None:
        with pytest.raises(ValueError, match=message):
            prefill_attention(*args, 1.0)

    fmt, cache = case.fmt, case.cache
    refused("q: expected", q[:, :, 1:], cache, case.tables, plan, fmt)
    refused("q: expected", q[:2], cache, case.tables, plan, fmt)
    refused("q: 4 heads do not share 3", q, cache, case.tables, plan, KvFormat(3, 32))
    refused("block_tables: expected", q, cache, case.tables.long(), plan, fmt)
    short = cache._replace(blocks=cache.blocks[:, 1:])
    refused("cache: expected", q, short, case.tables, plan, fmt)
    refused("fmt: expected", q, cache, case.tables, plan, KvFormat(2, 32, None, torch.float16))
    refused("head_dim: expected", q, cache, case.tables, plan, KvFormat(2, 36))


gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


@pytest.mark.gpu
@gpu
@pytest.mark.parametrize("window", [None, 300])
@pytest.mark.parametrize(
    ("heads", "head_dim", "bits", "dtype"),
    [
        ((32, 8), 128, 4, torch.float16),
        ((14, 2), 128, 8, torch.bfloat16),
        ((9, 3), 64, 4, torch.bfloat16),
        ((16, 1), 96, 4, torch.float16),
        ((8, 4), 256, 4, torch.float16),
    ],
)
def test_is_within_bounds_on_a_gpu(
    heads: tuple[int, int], head_dim: int, bits: int, dtype: torch.dtype, window: int | None
) -> None:
    """Chunks and company move no bit."""
    from .prefill_cases import check, check_company

    case = make_case([2000, 1, 700, 63, 129], heads, head_dim, bits=bits, dtype=dtype)
    check(case, window)
    check_company(case, window)


@pytest.mark.gpu
@gpu
def test_the_order_of_heads_moves_no_bit_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scratch for three of eight heads at a time gives what one for all gives."""
    from qoq.kernels.bench.prefill_case import attend, random_queries

    case = make_case([700, 300], (32, 8), 128)
    q = random_queries(case, [700, 300])
    whole = attend(case, q, [700, 300])
    monkeypatch.setattr(module, "SCRATCH_BYTES", 3 * 2 * 1152 * 128 * 2)
    assert torch.equal(attend(case, q, [700, 300]), whole)


@pytest.mark.gpu
@gpu
def test_a_long_context_is_within_bounds_on_a_gpu() -> None:
    from qoq.kernels.bench.prefill_case import check_prefill, random_queries

    case = make_case([131072, 100], (8, 2), 128)
    check_prefill(case, random_queries(case, [300, 100]), [300, 100], num_rows=100)
