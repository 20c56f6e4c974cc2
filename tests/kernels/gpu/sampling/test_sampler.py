"""The sampler: its tokens are the definition's, compiled without a spill."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="needs triton, which torch's CPU builds leave out")

from qoq.kernels.gpu.sampling import sample_choice, sample_kernel, sample_random, sample_summary
from qoq.kernels.gpu.sampling.sample_candidates import CANDIDATES
from qoq.kernels.gpu.sampling.sampler import SamplerRows, SamplerWorkspace, sample_triton

from ..interpreted import assert_equal_under_the_interpreter
from ..sass import assemble, compile_ahead

TYPES = {
    "logit_ptr": "*fp32",
    "temperature_ptr": "*fp32",
    "top_k_ptr": "*i32",
    "top_p_ptr": "*fp32",
    "min_p_ptr": "*fp32",
    "seed_ptr": "*i64",
    "position_ptr": "*i64",
    "top_ptr": "*fp32",
    "sum_ptr": "*fp32",
    "span_ptr": "*i32",
    "candidate_ptr": "*i64",
    "arrival_ptr": "*i32",
    "token_ptr": "*i64",
    "number_ptr": "*fp64",
    "V": "i32",
    "num_spans": "i32",
    "stride_logits": "i32",
}
SAMPLER = {
    "SPAN": 64,
    "TILE": sample_kernel.TILE,
    "SPANS": sample_choice.SPANS,
    "CANDIDATES": CANDIDATES,
}
OPTIONS = {"num_warps": sample_kernel.NUM_WARPS, "maxnreg": sample_kernel.MAX_REGISTERS}
KERNELS: dict[str, tuple[Any, dict[str, Any], dict[str, int]]] = {
    "summary": (
        sample_summary.summary_kernel,
        {"SPAN": 64, "SPANS": sample_summary.SPANS},
        {"num_warps": sample_summary.NUM_WARPS},
    ),
    "sampler of 32000": (sample_kernel.sampler_kernel, SAMPLER | {"BLOCK": 512}, OPTIONS),
    "sampler of 128256": (sample_kernel.sampler_kernel, SAMPLER | {"BLOCK": 2048}, OPTIONS),
    "sampler of 262144": (sample_kernel.sampler_kernel, SAMPLER | {"BLOCK": 4096}, OPTIONS),
    "numbers": (sample_random._numbers_kernel, {}, {"num_warps": 1}),
}


def test_tokens_are_the_definitions_under_the_interpreter() -> None:
    assert_equal_under_the_interpreter("sampling/sampler_interpreted.py")


# Every size of vocabulary, and every GPU, once: one takes a quarter of a minute.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arch"),
    [
        ("sampler of 32000", 89),
        ("sampler of 128256", 80),
        ("sampler of 262144", 90),
        *((name, arch) for name in ("summary", "numbers") for arch in (80, 89, 90)),
    ],
)
def test_compiles_without_a_spill(name: str, arch: int) -> None:
    kernel, constants, options = KERNELS[name]
    used = {arg: kind for arg, kind in TYPES.items() if arg in kernel.arg_names}
    aligned = [arg for arg, kind in used.items() if kind[0] == "*" or arg in {"V", "stride_logits"}]
    compiled = compile_ahead(kernel, arch, used, constants, aligned, **options)
    assert "0 bytes spill stores" in assemble(compiled.asm["ptx"], arch)


def test_refuses_what_does_not_match() -> None:
    logits, out = torch.zeros(2, 100), torch.zeros(2, dtype=torch.int64)
    rows = SamplerRows.over(torch.zeros(4, 2, dtype=torch.int64))
    workspace = SamplerWorkspace.allocate(2, 100, torch.device("cpu"))

    def refused(message: str, *args: Any) -> None:
        with pytest.raises(ValueError, match=message):
            sample_triton(*args)

    refused("logits: expected", logits.t(), rows, out, workspace)
    refused("logits: expected", torch.zeros(2, 1 << 19), rows, out, workspace)
    refused("rows.top_k: expected", logits, rows._replace(top_k=rows.seed), out, workspace)
    refused("rows.seed: expected", logits, rows._replace(seed=rows.seed[1:]), out, workspace)
    refused("out: expected", logits, rows, out.int(), workspace)
    refused("workspace: expected", torch.zeros(2, 200), rows, out, workspace)
    narrow = SamplerWorkspace.allocate(1, 100, torch.device("cpu"))
    refused("workspace: expected", logits, rows, out, narrow)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_tokens_are_the_definitions_on_a_gpu() -> None:
    from .sampler_cases import check_all

    torch.manual_seed(0)
    dtypes, vocab_sizes = (torch.float16, torch.bfloat16), (1, 63, 5000, 32000, 128256, 262144)
    check_all("cuda", dtypes, vocab_sizes, 8)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_replays_in_a_graph() -> None:
    """The host reads nothing: a captured launch samples from what the memory holds by then."""
    from .sampler_cases import SETTINGS, sampled, sampler_rows

    torch.manual_seed(0)
    rows = sampler_rows(SETTINGS, "cuda")
    logits = 4 * torch.randn(len(SETTINGS), 32000, device="cuda")
    out = torch.zeros(len(SETTINGS), dtype=torch.int64, device="cuda")
    workspace = SamplerWorkspace.allocate(len(SETTINGS), 32000, logits.device)
    sample_triton(logits, rows, out, workspace)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        sample_triton(logits, rows, out, workspace)
    for _ in range(3):
        logits.normal_(std=3)
        rows.position.add_(1)
        graph.replay()
        assert torch.equal(out, sampled(logits, rows))
