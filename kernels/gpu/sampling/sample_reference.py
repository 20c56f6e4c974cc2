"""The sampler's definition in plain torch and float64, and what rounding may decide otherwise."""

from __future__ import annotations

import torch
from torch import Tensor

from qoq.kernels.gpu.sampling.sampler import SamplerRows

# Of the mass, or of a threshold. A GPU's exp2 is off by 2^-22; were that of one sign, a mass from
# the summary, a product of two, would differ by 3 * 2^-22 from such weights. The rest is for
# roundings of sums and of what is exponentiated, which have no sign in common.
ROUNDING = 2.0**-20
# A weight is of an fp32 distance from the largest logit in these steps: nearer tokens tie.
STEP = 2.0**-24


def check_tokens(logits: Tensor, rows: SamplerRows, numbers: Tensor, tokens: Tensor) -> int:
    """Raises AssertionError where a token is not what its row should give.

    ``numbers`` float64 ``[R]`` in [0, 1). Returns how many tokens rounding moved: their draw, or
    the threshold of a filter, lies within ROUNDING of another token's.
    """
    exact = _is_drawn(logits, rows, numbers, tokens, 0.0, 0.0)
    fits = exact.clone()
    for shift in (-ROUNDING, 0.0, ROUNDING):
        fits |= _is_drawn(logits, rows, numbers, tokens, shift, ROUNDING)
    wrong = (~fits).nonzero().flatten().tolist()
    assert not wrong, "\n".join(_drawn(logits, rows, numbers, tokens, row) for row in wrong[:4])
    return int((~exact).sum())


def kept_weights(logits: Tensor, rows: SamplerRows, shift: float = 0.0) -> Tensor:
    """Float64 ``[R, V]``: weights after top-k, top-p of what is left, and min-p, else 0.

    ``shift`` is the relative change of ``top_p`` and ``min_p``.
    """
    temperature = torch.where(rows.temperature > 0, rows.temperature, 1.0)
    scaled = logits.float() / temperature[:, None]
    steps = ((scaled.amax(-1, keepdim=True) - scaled).double() / STEP).floor_()
    weights = steps.mul_(-STEP).exp_()
    largest = weights.sort(dim=-1, descending=True).values
    rank = torch.arange(logits.shape[1], device=logits.device)
    k = torch.where(rows.top_k > 0, rows.top_k, logits.shape[1])[:, None]
    mass = largest.masked_fill(rank >= k, 0.0).cumsum(-1)
    top_p = torch.where(rows.top_p < 1, rows.top_p.double() * (1 + shift), torch.inf)[:, None]
    before = (mass < top_p * mass[:, -1:]).sum(-1, keepdim=True)
    last = torch.minimum(before, k.clamp(max=logits.shape[1]) - 1)
    threshold = torch.maximum(largest.gather(1, last), rows.min_p.double()[:, None] * (1 + shift))
    return weights.masked_fill_(weights < threshold.clamp(max=1.0), 0.0)


def _row(rows: SamplerRows, row: int) -> SamplerRows:
    return SamplerRows(*(tensor[row : row + 1] for tensor in rows))


def _drawn(logits: Tensor, rows: SamplerRows, numbers: Tensor, tokens: Tensor, row: int) -> str:
    """Where a draw and its token lie, as shares of the mass that is kept."""
    weights = kept_weights(logits[row : row + 1], _row(rows, row))[0]
    token, shares = int(tokens[row]), (weights / weights.sum()).cumsum(0)
    expected = int((shares <= numbers[row]).sum())
    settings = [float(part[row]) for part in rows[:4]]
    return (
        f"row {row}, {settings}: drew {token}, which weighs {float(weights[token]):.3g} and ends "
        f"at {float(shares[token]):.9f}, not {expected}, which ends at "
        f"{float(shares[min(expected, len(shares) - 1)]):.9f}, with {float(numbers[row]):.9f}"
    )


def _is_drawn(
    logits: Tensor,
    rows: SamplerRows,
    numbers: Tensor,
    tokens: Tensor,
    shift: float,
    slack: float,
) -> Tensor:
    """Bool ``[R]``: whether each draw, moved by up to ``slack`` of the mass, gives the token."""
    weights = kept_weights(logits, rows, shift)
    end = weights.cumsum(-1)
    mass = end[:, -1]
    place = tokens[:, None]
    own, end = weights.gather(1, place)[:, 0], end.gather(1, place)[:, 0]
    target = numbers * mass
    is_drawn = (own > 0) & (target < end + slack * mass) & (target >= end - own - slack * mass)
    is_first_largest = tokens == logits.float().argmax(-1)
    return torch.where(rows.temperature > 0, is_drawn, is_first_largest)
