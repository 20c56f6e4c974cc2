"""Log-probabilities on a GPU: float64's up to rounding, compiled without a spill."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="needs triton, which torch's CPU builds leave out")

from qoq.kernels.gpu.sampling import token_logprobs
from qoq.kernels.gpu.sampling.token_logprobs import token_logprobs_triton

from ..interpreted import assert_equal_under_the_interpreter
from ..sass import assemble, compile_ahead


def test_are_float64s_under_the_interpreter() -> None:
    assert_equal_under_the_interpreter("sampling/logprob_interpreted.py")


@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 89, 90])
@pytest.mark.parametrize("block", [512, 2048, 4096])
def test_compiles_without_a_spill(block: int, arch: int) -> None:
    types = {
        "logit_ptr": "*fp32",
        "token_ptr": "*i64",
        "top_ptr": "*fp32",
        "sum_ptr": "*fp32",
        "logprob_ptr": "*fp32",
        "rank_ptr": "*i32",
        "top_id_ptr": "*i64",
        "top_logprob_ptr": "*fp32",
        "V": "i32",
        "num_spans": "i32",
        "num_top": "i32",
        "stride_logits": "i32",
    }
    compiled = compile_ahead(
        token_logprobs._logprobs_kernel,
        arch,
        types,
        {"SPAN": 64, "SPANS": token_logprobs._SPANS, "BLOCK": block},
        [name for name, kind in types.items() if kind[0] == "*"],
        num_warps=8,
    )
    assert "0 bytes spill stores" in assemble(compiled.asm["ptx"], arch)


def test_refuses_what_does_not_match() -> None:
    logits, tokens = torch.zeros(2, 100), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="logits: expected"):
        token_logprobs_triton(logits.t(), tokens, 1)
    with pytest.raises(ValueError, match="tokens: expected"):
        token_logprobs_triton(logits, tokens[1:], 1)
    with pytest.raises(ValueError, match="num_top: expected 0 to 100, got 101"):
        token_logprobs_triton(logits, tokens, 101)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_are_float64s_on_a_gpu() -> None:
    from .logprob_cases import check_all

    torch.manual_seed(0)
    dtypes = (torch.float16, torch.bfloat16, torch.float32)
    check_all("cuda", dtypes, (1, 70, 5000, 128256, 151936))
