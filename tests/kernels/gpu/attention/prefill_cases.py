"""Prefill attention against float64 over the dequantized cache, and by chunk bit for bit."""

import torch

from qoq.kernels.bench.attention_case import AttentionCase
from qoq.kernels.bench.prefill_case import alone, attend, check_prefill, random_queries


def check(case: AttentionCase, window: int | None = None) -> None:
    """The whole prompts against the definition; a chunk's boundary must not move a bit."""
    lengths = case.context_lens
    q = random_queries(case, lengths)
    whole = check_prefill(case, q, lengths, window)
    for fifths in (2, 4):
        cuts = [length * fifths // 5 for length in lengths]
        rows = torch.cat([w[s:] for w, s in zip(whole.split(lengths), cuts, strict=True)])
        own = torch.cat([r[s:] for r, s in zip(q.split(lengths), cuts, strict=True)])
        counts = [length - cut for length, cut in zip(lengths, cuts, strict=True)]
        part = attend(case, own, counts, window)
        assert torch.equal(part, rows), f"{case.fmt} {lengths}: a chunk's boundary moved bits"


def check_company(case: AttentionCase, window: int | None = None) -> None:
    """A request alone has the bits that it has in a batch."""
    q = random_queries(case, case.context_lens)
    together = attend(case, q, case.context_lens, window).split(case.context_lens)
    for index, own in enumerate(q.split(case.context_lens)):
        one = alone(case, index)
        assert torch.equal(attend(one, own, one.context_lens, window), together[index]), index
