"""The sampler's kernels on a device against ``qoq.engine`` and plain torch on the CPU."""

from __future__ import annotations

import itertools

import torch

from qoq.engine.random_uniform import uniform
from qoq.kernels.gpu.sampling.sample_random import random_numbers_triton
from qoq.kernels.gpu.sampling.sample_reference import check_tokens
from qoq.kernels.gpu.sampling.sampler import SamplerRows, SamplerWorkspace, sample_triton

# Temperature, top-k, top-p, min-p.
SETTINGS = [
    (0.0, 0, 1.0, 0.0),
    (1.0, 0, 1.0, 0.0),
    (0.7, 0, 1.0, 0.0),
    (1.0, 0, 0.9, 0.0),
    (1.3, 0, 0.5, 0.0),
    (0.6, 0, 0.99, 0.0),
    (1.0, 50, 1.0, 0.0),
    (0.8, 50, 0.9, 0.0),
    (1.0, 1, 1.0, 0.0),
    (1.0, 3, 0.0, 0.0),
    (1.0, 0, 1.0, 0.02),
    (1.0, 4000, 0.8, 0.001),
    (1.0, 0, 0.95, 0.1),
    (1.0, 400, 0.3, 0.3),
]


def sampler_rows(settings: list[tuple[float, int, float, float]], device: str) -> SamplerRows:
    memory = torch.zeros(4, len(settings), dtype=torch.int64)
    rows = SamplerRows.over(memory)
    for tensor, values in zip(rows, zip(*settings, strict=True), strict=False):
        tensor.copy_(torch.tensor(values))
    rows.seed.copy_(torch.arange(len(settings)) * 0x9E3779B97F4A7C15 // 3 - 7)
    rows.position.copy_(torch.arange(len(settings)) * 1041)
    return SamplerRows.over(memory.to(device))


def sampled(
    logits: torch.Tensor, rows: SamplerRows, workspace: SamplerWorkspace | None = None
) -> torch.Tensor:
    num_rows, vocab_size = logits.shape
    workspace = workspace or SamplerWorkspace.allocate(num_rows, vocab_size, logits.device)
    out = torch.full((num_rows,), -1, device=logits.device)
    return sample_triton(logits, rows, out, workspace)


def check_random(device: str) -> None:
    seeds = [0, 1, -1, 1 << 31, 1 << 32, (1 << 63) - 1, -(1 << 63)]
    positions = [0, 1, 77, (1 << 31) + 5, (1 << 40) + 3]
    pairs = list(itertools.product(seeds, positions))
    numbers = random_numbers_triton(*torch.tensor(pairs, device=device).t().contiguous())
    assert numbers.tolist() == [uniform(seed, position) for seed, position in pairs]


def check_sampler(device: str, vocab_size: int, scale: float, repeats: int) -> int:
    """Normal logits times ``scale``; returns how many tokens rounding decided."""
    rows = sampler_rows(SETTINGS * repeats, device)
    wide = scale * torch.randn(len(rows.seed), vocab_size + 3, device=device)
    logits = wide[:, 1:-2]  # rows with a stride
    numbers = random_numbers_triton(rows.seed, rows.position)
    return check_tokens(logits, rows, numbers, sampled(logits, rows))


def check_ties(device: str, vocab_size: int, repeats: int) -> None:
    """Equal logits are kept together, whatever top-p and top-k ask; greedy takes the first.

    Behind one large logit, top-p counts as many of the equal ones as top-k asks for. Logits are
    equal also where only their fp32 distances from the largest one are.
    """
    rows = sampler_rows(SETTINGS * repeats, device)
    numbers = random_numbers_triton(rows.seed, rows.position)
    for large in (slice(1, None, 2), slice(17, 18)):
        logits = 1e-7 * torch.rand(len(rows.seed), vocab_size, device=device)
        logits[:, large] = 5.0
        check_tokens(logits, rows, numbers, sampled(logits, rows))


def check_masked(device: str) -> None:
    """-inf and NaN are never drawn, and a row of nothing else gives token 0."""
    rows = sampler_rows(SETTINGS[::3], device)
    logits = torch.full((len(rows.seed), 300), -torch.inf, device=device)
    logits[:, ::7] = torch.nan if device == "cuda" else -torch.inf  # the interpreter keeps NaN
    assert not sampled(logits, rows).any()
    logits[:, 257] = -30.0
    assert (sampled(logits, rows) == 257).all()


def check_dtypes(device: str, dtypes: tuple[torch.dtype, ...]) -> None:
    rows = sampler_rows(SETTINGS[1:4], device)
    logits = 3 * torch.randn(3, 1000, device=device)
    for dtype in dtypes:
        narrow = logits.to(dtype)
        assert torch.equal(sampled(narrow, rows), sampled(narrow.float(), rows)), dtype


def check_company(device: str, vocab_size: int) -> None:
    """A row alone, in a batch, and in another place of it, all in the same memory."""
    settings = SETTINGS[1::3]
    rows = sampler_rows(settings, device)
    logits = 3 * torch.randn(len(settings), vocab_size, device=device)
    workspace = SamplerWorkspace.allocate(len(settings), vocab_size, logits.device)
    together = sampled(logits, rows, workspace)
    order = torch.arange(len(settings), device=device).flip(0)
    shuffled = SamplerRows(*(tensor[order].contiguous() for tensor in rows))
    assert torch.equal(sampled(logits[order], shuffled, workspace), together[order])
    for index in range(0, len(settings), 3):
        alone = SamplerRows(*(tensor[index : index + 1].contiguous() for tensor in rows))
        token = sampled(logits[index : index + 1], alone, workspace)
        assert token.item() == together[index].item()


def check_all(
    device: str, dtypes: tuple[torch.dtype, ...], vocab_sizes: tuple[int, ...], repeats: int
) -> None:
    """A draw is off by some 2^-24 of the mass: of flat rows, near one of V borders that often."""
    check_random(device)
    for vocab_size in vocab_sizes:
        for scale in (1.0, 4.0):
            num_moved = check_sampler(device, vocab_size, scale, repeats)
            limit = 2 + repeats * len(SETTINGS) * vocab_size * 2**-22
            assert num_moved <= limit, (vocab_size, scale, num_moved)
    check_ties(device, 1500, repeats)
    check_ties(device, vocab_sizes[-1], repeats)
    check_masked(device)
    check_dtypes(device, dtypes)
    check_company(device, 1000)
