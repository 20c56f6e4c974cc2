"""Run by test_decode_attention_triton in a process of its own: the interpreter is chosen at import.

Every case is compared with float64 over the dequantized cache, and by item size bit for bit.
"""

import interpreter  # noqa: F401
import torch

from qoq.kernels.bench.attention_case import AttentionCase, make_case
from qoq.kernels.gpu.attention.decode_attention import decode_partials
from qoq.kernels.gpu.attention.decode_plan import DecodePlan
from qoq.kernels.gpu.attention.merge_partials import merge


def attend(case: AttentionCase, prefix: int, window: int | None) -> torch.Tensor:
    _, num_heads, head_dim = case.q.shape
    plan = DecodePlan.allocate(
        len(case.context_lens) + 1,
        16,
        max(case.context_lens),
        num_heads=num_heads,
        num_kv_heads=case.fmt.num_kv_heads,
        head_dim=head_dim,
        device=case.q.device,
    )
    plan.set(case.context_lens, window, prefix)
    decode_partials(case.q, case.cache, case.tables, plan, case.fmt, case.scale)
    return merge(plan, torch.full_like(case.q, torch.nan, dtype=torch.float32))


def check(case: AttentionCase, window: int | None = None) -> None:
    name = f"{case.fmt} {case.context_lens} window {window}"
    out = attend(case, 1, window)
    for prefix in (3, 8):
        other = attend(case, prefix, window)
        assert torch.equal(out, other), f"{name}: the size of an item moved bits"
    live = [i for i, length in enumerate(case.context_lens) if length]
    error = (out[live].double() - case.reference(live, window)).abs().max()
    assert error <= case.bound(), f"{name}: error {error:.2e} of {case.bound():.2e}"
    assert not out[[i for i, length in enumerate(case.context_lens) if not length]].any(), name


if __name__ == "__main__":
    torch.manual_seed(0)
    for bits in (4, 8):
        check(make_case([300, 0, 64], (6, 2), 64, bits=bits, device="cpu"))
    check(make_case([65], (16, 1), 96, device="cpu"))
    check(make_case([1], (3, 1), 256, device="cpu", dtype=torch.bfloat16))
    check(make_case([2500], (2, 1), 32, device="cpu"))
    check(
        make_case([2500], (2, 1), 32, device="cpu"), window=750
    )  # from a partition's last tile on
    print("equal")
