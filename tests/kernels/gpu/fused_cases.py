"""The fused kernels on a device against their definitions on the CPU.

Integers and queries are compared bit for bit where the definition leaves no choice: rows of one
magnitude have one norm. Torch's square root and exponential have other last bits than a GPU's, so
other rows are compared with float64.
"""

import torch

from qoq.kernels.gpu.attention.decode_plan import DecodePlan
from qoq.kernels.gpu.attention.merge_partials import MergeConfig, merge, merge_quantize
from qoq.kernels.gpu.quantized_rows import QuantizedRows, quantize_rows
from qoq.kernels.gpu.rms_norm import add_rms_norm_quantize_triton, add_rms_norm_triton
from qoq.kernels.gpu.rope_store_kv import HeadNorm, rope_store_kv_triton
from qoq.kernels.gpu.silu_mul import silu_mul_quantize_triton
from qoq.kernels.kv_cache import KvCache, KvFormat, SlotMapping
from qoq.kernels.quantize import QuantizedActivations, quantize_activations
from qoq.kernels.rms_norm import add_rms_norm_quantize, rms_norm, rms_norm_reference
from qoq.kernels.rope import rope_table
from qoq.kernels.rope_store_kv import rope_store_kv
from qoq.kernels.silu_mul import silu_mul_quantize, silu_mul_reference

# All heads of a request by one program, one head by each, and a few.
MERGES = (MergeConfig.of(132, 384), MergeConfig.of(1, 384), MergeConfig(2, 2, 1, 4))
UNIT_ROUNDOFF = {torch.float16: 2**-11, torch.bfloat16: 2**-8, torch.float32: 2**-24}


def halves(*shape: int) -> torch.Tensor:
    """Plus and minus a half: a root mean square that every square root finds."""
    return torch.randint(0, 2, shape) - 0.5


def exact_eps(dtype: torch.dtype) -> float:
    """A root of 1/2 or of 3/4; the second's inverse is for dtypes that hide its last bit."""
    return 0.0 if dtype == torch.float32 else 0.3125


def equal(got: QuantizedRows, expected: QuantizedActivations) -> None:
    assert torch.equal(got.codes.cpu(), expected.codes)
    assert torch.equal(got.scales.cpu(), expected.scales)
    assert torch.equal(got.sums.cpu(), expected.sums)


def near(got: QuantizedRows, expected: torch.Tensor, dtype: torch.dtype) -> None:
    """Half a step of the code, two roundings of the dtype, a few of fp32."""
    codes, scales, sums = (tensor.cpu() for tensor in got)
    bound = scales.double() / 2 + expected.abs() * (2 * UNIT_ROUNDOFF[dtype] + 2**-20)
    assert ((codes.double() * scales - expected).abs() <= bound + 2**-24).all()
    assert torch.equal(sums, codes.sum(-1, dtype=torch.int32))


def check_norm(device: str, m: int, k: int, dtype: torch.dtype) -> None:
    gain = (torch.arange(k) % 255 / 2).to(dtype)  # a largest code of 127, and ties
    eps = exact_eps(dtype)
    for x in (None, torch.zeros(m, k, dtype=dtype, device=device)):
        wide = halves(m, k + 8).to(dtype)  # rows with a stride
        expected = add_rms_norm_quantize(None, wide[:, :k].clone(), gain, eps)
        rows = wide.to(device)[:, :k]
        equal(add_rms_norm_quantize_triton(x, rows, gain.to(device), eps), expected)
        normed = add_rms_norm_triton(x, rows, gain.to(device), eps)
        assert torch.equal(normed.cpu(), rms_norm(wide[:, :k], gain, eps))
    x, residual = torch.randn(m, k).to(dtype), torch.randn(m, k).to(dtype)
    total, sum_, own_sum = residual + x, residual.to(device), residual.clone().to(device)
    got = add_rms_norm_quantize_triton(x.to(device), sum_, gain.to(device), 1e-5)
    assert torch.equal(sum_.cpu(), total)
    exact = rms_norm_reference(total.double(), gain.double(), 1e-5)
    near(got, exact, dtype)
    normed = add_rms_norm_triton(x.to(device), own_sum, gain.to(device), 1e-5).cpu()
    assert torch.equal(own_sum.cpu(), total) and normed.dtype == dtype
    bound = exact.abs() * (2 * UNIT_ROUNDOFF[dtype] + 2**-20) + 2**-24
    assert ((normed.double() - exact).abs() <= bound).all()


def check_silu(device: str, m: int, k: int, dtype: torch.dtype) -> None:
    gate_up = torch.randn(m, 2 * k).to(dtype)
    gate_up[0] = 0
    got = silu_mul_quantize_triton(gate_up.to(device))
    near(got, silu_mul_reference(gate_up.double()), dtype)
    gate_up[:, :k] = -torch.finfo(dtype).tiny  # half, whatever the exponential
    equal(silu_mul_quantize_triton(gate_up.to(device)), silu_mul_quantize(gate_up))


def check_rope(device: str, dtype: torch.dtype, bits: int, head_dim: int, norms: bool) -> None:
    fmt, heads, m = KvFormat(2, head_dim, bits), 6, 7
    qkv = (halves if norms else torch.randn)(m, heads + 4, head_dim).to(dtype)
    qkv[1, -1] = 0.5  # equal values have no range
    qkv[2, -1] = torch.arange(head_dim) % 31 / 2  # ties between codes of 4 bits
    rope = rope_table(torch.rand(head_dim // 2), 50)[torch.randint(0, 50, (m,))]
    blocks, offsets = torch.tensor([0, 2, 1, 2, 0, 1, 2]), torch.tensor([0, 63, 5, 6, 9, 8, 7])
    cache, slots = fmt.allocate(3), SlotMapping(blocks, offsets)
    norm = HeadNorm(*(torch.rand(2, head_dim) + 0.5).to(dtype), exact_eps(dtype)) if norms else None
    own = on(device, fmt, 3)
    q = rope_store_kv_triton(
        qkv.to(device),
        rope.to(device),
        own,
        SlotMapping(blocks.to(device), offsets.to(device)),
        fmt,
        norm and HeadNorm(norm.q_gain.to(device), norm.k_gain.to(device), norm.eps),
    )
    if norm is not None:
        qkv[:, :heads] = rms_norm(qkv[:, :heads], norm.q_gain, norm.eps)
        qkv[:, heads:-2] = rms_norm(qkv[:, heads:-2], norm.k_gain, norm.eps)
    expected = rope_store_kv(qkv, rope, cache, slots, fmt)
    assert torch.equal(q.cpu(), expected), (dtype, bits, head_dim, norms)
    assert torch.equal(own.blocks.cpu(), cache.blocks), (dtype, bits, head_dim, norms)


def on(device: str, fmt: KvFormat, num_blocks: int) -> KvCache:
    blocks = torch.zeros(num_blocks, fmt.block_elements, dtype=torch.uint8, device=device)
    return KvCache(blocks, fmt.codes(blocks), fmt.scales(blocks))


def check_slots(device: str) -> None:
    """Neither -1 nor a block past the end is written, and no other slot for it."""
    fmt = KvFormat(2, 32)
    cache, qkv = on(device, fmt, 2), torch.randn(4, 8, 32, device=device)
    slots = SlotMapping(*torch.tensor([[-1, 2, 0, 1], [63, 0, -1, 64]], device=device))
    rope_store_kv_triton(qkv, rope_table(torch.rand(16), 4).to(device), cache, slots, fmt)
    assert not cache.blocks.any()


def check_merge(device: str, heads: int, head_dim: int, prefix: int) -> None:
    plan = DecodePlan.allocate(
        3,
        48,
        5000,
        num_heads=heads,
        num_kv_heads=1,
        head_dim=head_dim,
        device=torch.device(device),
    )
    plan.set([5000, 0, 4000], 3000, prefix)
    plan.partials.normal_()
    plan.stats.uniform_(1, 2)
    for dtype in (torch.float16, torch.float32):  # fp32 shows in which order partials fold
        out = merge(plan, torch.empty(3, heads, head_dim, dtype=dtype, device=device))
        rows = QuantizedRows.allocate(3, heads * head_dim, torch.device(device))
        for config in MERGES if dtype == torch.float32 else (None,):
            for part in rows:
                part.zero_()
            merge_quantize(plan, out, rows, config)
            equal(rows, quantize_activations(out.cpu().flatten(1)))
            assert not plan.arrivals.any(), "counts are left for the next launch"
        quantize_rows(out.flatten(1), rows)
        equal(rows, quantize_activations(out.cpu().flatten(1)))


def check_all(device: str, dtypes: tuple[torch.dtype, ...]) -> None:
    for dtype in dtypes:
        check_norm(device, 3, 576, dtype)
        check_norm(device, 1, 32, dtype)
        check_silu(device, 3, 200, dtype)
        check_rope(device, dtype, 4, 64, True)
        check_rope(device, dtype, 8, 96, False)
        check_rope(device, dtype, 4, 96, False)
    check_slots(device)
    check_merge(device, 3, 96, 8)
    check_merge(device, 4, 32, 2)
    rows, gain = torch.empty(0, 8, device=device), torch.ones(8, device=device)
    assert add_rms_norm_quantize_triton(None, rows, gain, 1e-5).codes.shape == (0, 8)
