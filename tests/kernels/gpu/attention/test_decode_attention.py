"""Decode attention in Triton: under the interpreter, on a GPU, and what it compiles to."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from qoq.kernels.gpu.attention.decode_plan import PARTITION, TILE, DecodePlan
from qoq.kernels.kv_cache import KvFormat

triton = pytest.importorskip("triton", reason="needs triton, which torch's CPU builds leave out")

from qoq.kernels.bench.attention_case import AttentionCase, make_case  # noqa: E402
from qoq.kernels.gpu.attention.decode_attention import (  # noqa: E402
    DecodeConfig,
    _decode_kernel,
    decode_partials,
)
from qoq.kernels.gpu.attention.merge_partials import merge  # noqa: E402

from ..interpreted import assert_equal_under_the_interpreter  # noqa: E402
from ..sass import assemble, compile_ahead, main_loop  # noqa: E402

POINTERS = {
    "q_ptr": "*fp16",
    "word_ptr": "*u16",
    "scale_ptr": "*fp16",
    "table_ptr": "*i32",
    "count_ptr": "*i32",
    "item_ptr": "*i32",
    "partial_ptr": "*fp32",
    "stat_ptr": "*fp32",
}
SIZES = {"NUM_BLOCKS": "i32", "stride_table": "i32", "stride_q": "i32", "score_scale": "fp32"}


def test_is_within_bounds_under_the_interpreter() -> None:
    assert_equal_under_the_interpreter("attention/decode_interpreted.py")


@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 89, 90])
@pytest.mark.parametrize("head_dim", [64, 96, 128])
def test_main_loop_is_clean(arch: int, head_dim: int) -> None:
    """Codes go from memory to the matrix unit by a mask: no spill, no shuffle of bytes, no round
    trip through shared memory.
    """
    compiled = compile_for(arch, KvFormat(2, head_dim))
    opcodes = {line.split()[0].split(".")[0] for line in main_loop(compiled.asm["cubin"])}
    assert "HMMA" in opcodes
    assert not {"STS", "STL", "LDL", "PRMT", "I2F"} & opcodes
    assert "0 bytes spill stores" in assemble(compiled.asm["ptx"], arch)
    before_wait, waits, _ = compiled.asm["ptx"].partition("griddepcontrol.wait")
    assert ("cp.async.bulk.prefetch.L2" in before_wait) == (arch >= 90) == bool(waits)


@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 89, 90])
def test_wide_heads_do_not_spill(arch: int) -> None:
    """Several warps share a tile then, and weights pass through shared memory."""
    compiled = compile_for(arch, KvFormat(2, 256))
    assert "0 bytes spill stores" in assemble(compiled.asm["ptx"], arch)


def compile_for(arch: int, fmt: KvFormat) -> Any:
    config = DecodeConfig.of(fmt, 4 * fmt.num_kv_heads)
    constants = {
        "BITS": fmt.bits,
        "D": fmt.head_dim,
        "WIDTH": triton.next_power_of_2(fmt.head_dim // 4),
        "HEADS": fmt.num_kv_heads,
        "GROUP": 4,
        "TILE": TILE,
        "ROWS": 8,
        "TILES": PARTITION // TILE,
        "STAGES": config.num_stages,
        "EARLY_TILES": config.early_tiles,
        "ASM": True,
        "OVERLAPS": arch >= 90,
    }
    aligned = [*POINTERS, "stride_q"]
    return compile_ahead(
        _decode_kernel,
        arch,
        POINTERS | SIZES,
        constants,
        aligned,
        num_warps=config.num_warps,
        **({"maxnreg": config.max_registers} if config.max_registers else {}),
    )


def plan_for(case: AttentionCase, max_context: int = 300) -> DecodePlan:
    return DecodePlan.allocate(
        len(case.context_lens),
        16,
        max_context,
        num_heads=case.q.shape[1],
        num_kv_heads=case.fmt.num_kv_heads,
        head_dim=case.fmt.head_dim,
        device=case.q.device,
    )


def test_refuses_what_does_not_match() -> None:
    case = make_case([300, 20], (4, 2), 32, device="cpu")
    plan = plan_for(case)

    def refused(message: str, **changes: Any) -> None:
        bad = replace(case, **changes)
        with pytest.raises(ValueError, match=message):
            decode_partials(bad.q, bad.cache, bad.tables, plan, bad.fmt, bad.scale)

    refused("q: expected", q=case.q[:, :3])
    refused("q: expected", q=case.q.transpose(1, 2).contiguous().transpose(1, 2))
    refused("block_tables: expected int32", tables=case.tables.long())
    refused("block_tables: expected int32 for 300 tokens", tables=case.tables[:, :4])
    refused("cache: expected", cache=case.cache._replace(blocks=case.cache.blocks[:, 1:]))
    refused("fmt: expected 4 or 8 bits", fmt=KvFormat(2, 32, None, torch.float16))
    with pytest.raises(ValueError, match="out: expected"):
        merge(plan, case.q[:, :2])
    with pytest.raises(ValueError, match="out: 5 rows, the plan has 2"):
        merge(plan, torch.empty(5, 4, 32))


gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


@pytest.mark.gpu
@gpu
@pytest.mark.parametrize(
    ("heads", "head_dim", "bits"),
    [
        ((9, 3), 64, 4),
        ((8, 8), 96, 8),
        ((24, 4), 128, 4),
        ((14, 2), 128, 8),
        ((16, 1), 128, 4),
        ((8, 4), 256, 4),
    ],
)
def test_is_within_bounds_on_a_gpu(heads: tuple[int, int], head_dim: int, bits: int) -> None:
    from qoq.kernels.bench.attention import RAGGED, check

    check(make_case(RAGGED, heads, head_dim, bits=bits))


@pytest.mark.gpu
@gpu
def test_a_context_has_the_same_bits_alone_on_a_gpu() -> None:
    from qoq.kernels.bench.attention import attend, config_of, plan_of

    case = make_case([5000, 1, 257, 9000, 64], (32, 8), 128)
    config = config_of(case)
    together = attend(case, case.cache, plan_of(case), config, torch.empty_like(case.q))
    for row, length in enumerate(case.context_lens):
        one = slice(row, row + 1)
        alone = replace(case, q=case.q[one], tables=case.tables[one], context_lens=[length])
        out = attend(alone, case.cache, plan_of(alone), config, torch.empty_like(alone.q))
        assert torch.equal(out, together[one]), row


@pytest.mark.gpu
@gpu
@pytest.mark.parametrize("bits", [4, 8])
def test_long_contexts_are_within_bounds_on_a_gpu(bits: int) -> None:
    """Random lengths beside one of 131072 tokens, against float64 on the GPU."""
    from qoq.kernels.bench.attention import attend, config_of, plan_of
    from qoq.kernels.bench.prefill_case import dequantized, reference

    lengths = [131072, *torch.randint(1, 40000, (12,)).tolist(), 1]
    case = make_case(lengths, (32, 8), 128, bits=bits)
    out = attend(case, case.cache, plan_of(case), config_of(case), torch.empty_like(case.q))
    for row, length in enumerate(lengths):
        keys, values = (kv.double() for kv in dequantized(case, row))
        q, position = case.q[row : row + 1].double(), torch.tensor([length - 1], device="cuda")
        expected = reference(q, keys, values, position, case.scale, None)
        error = float((out[row : row + 1].double() - expected).abs().max())
        assert error <= case.bound(), f"{length} tokens: error {error:.2e} of {case.bound():.2e}"
