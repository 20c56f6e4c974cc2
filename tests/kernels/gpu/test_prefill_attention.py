"""Prefill attention in Triton: under the interpreter, on a GPU, and what it compiles to."""

from typing import Any

import pytest
import torch

from qoq.kernels.kv_cache import KvFormat

pytest.importorskip("triton", reason="needs triton, which torch's CPU builds leave out")

from qoq.kernels.bench.attention_case import make_case
from qoq.kernels.gpu.prefill_attention import (
    ROWS,
    TOKENS,
    _prefill_kernel,
    plan_prefill,
    prefill_attention,
)

from .interpreted import assert_equal_under_the_interpreter
from .sass import assemble, compile_ahead

POINTERS = {
    "q_ptr": "*fp16",
    "word_ptr": "*u16",
    "scale_ptr": "*fp16",
    "table_ptr": "*i32",
    "program_ptr": "*i32",
    "out_ptr": "*fp16",
}
SIZES = {"NUM_BLOCKS": "i32", "TABLE_WIDTH": "i32", "WINDOW": "i32", "score_scale": "fp32"}


def test_is_within_bounds_under_the_interpreter() -> None:
    assert_equal_under_the_interpreter("prefill_interpreted.py")


@pytest.mark.slow
@pytest.mark.parametrize(("head_dim", "bits"), [(64, 4), (128, 4), (128, 8), (256, 4)])
def test_does_not_spill_on_hopper(head_dim: int, bits: int) -> None:
    constants = {
        "BITS": bits,
        "D": head_dim,
        "WIDTH": head_dim // 4,
        "HEADS": 8,
        "GROUP": 4,
        "TOKENS": TOKENS,
        "ROWS": ROWS,
        "ASM": True,
    }
    compiled = compile_ahead(
        _prefill_kernel, 90, POINTERS | SIZES, constants, [*POINTERS], num_warps=8, num_stages=2
    )
    said = assemble(compiled.asm["ptx"], 90)
    assert "wgmma" in compiled.asm["ptx"]
    assert "0 bytes spill stores" in said and "C75" not in said


def test_programs_cover_each_query_once() -> None:
    programs = plan_prefill([100, 0, 3], [130, 64, 3], 8, 2).tolist()
    step = ROWS // 4
    tokens = [(p[0], p[1] + i, p[3] + i) for p in programs for i in range(p[2])]
    expected = [(0, i, 30 + i) for i in range(100)] + [(2, 100 + i, i) for i in range(3)]
    assert sorted(tokens) == expected
    assert max(p[2] for p in programs) <= step
    assert plan_prefill([], [], 8, 2).shape == (0, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(([2], [1], 8, 2), "query_lens: 2"), (([1], [1], 8, 3), "num_heads: 8")],
)
def test_refuses_what_cannot_be_planned(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_prefill(*arguments)


def test_refuses_what_does_not_match() -> None:
    case = make_case([3], (4, 2), 32, device="cpu")
    programs, q = plan_prefill([3], [3], 4, 2), torch.ones(3, 4, 32)

    def refused(message: str, *args: Any) -> None:
        with pytest.raises(ValueError, match=message):
            prefill_attention(*args, 1.0)

    fmt = case.fmt
    refused("q: expected", q[:, :, 1:], case.cache, case.tables, programs, fmt)
    refused("q: 3 heads", q[:, :3].contiguous(), case.cache, case.tables, programs, fmt)
    refused("block_tables: expected", q, case.cache, case.tables.long(), programs, fmt)
    refused("programs: expected", q, case.cache, case.tables, programs.long(), fmt)
    dense = KvFormat(2, 32, None, torch.float16)
    refused("fmt: expected", q, case.cache, case.tables, programs, dense)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("window", [None, 300])
def test_is_within_bounds_on_a_gpu(window: int | None) -> None:
    from .prefill_cases import check

    check(make_case([2000, 1, 700, 63], (32, 8), 128), window)
