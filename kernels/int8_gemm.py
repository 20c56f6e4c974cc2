"""INT8 times INT8, accumulated exactly in INT32: ``y = float(x @ w.T) * (s_x * s_w)``.

The scales are multiplied first, so that every backend rounds alike: one product of scales, one
product with the accumulator, one rounding to the output dtype.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qoq.kernels.quantize import QuantizedActivations


def int8_gemm(
    x: QuantizedActivations,
    weight: Tensor,
    weight_scales: Tensor,
    bias: Tensor | None = None,
    out_dtype: torch.dtype = torch.float32,
) -> Tensor:
    """``[M, K]`` codes by int8 ``weight`` ``[N, K]`` with fp32 ``weight_scales`` ``[N]``.

    ``bias`` ``[N]`` is added in fp32. Returns ``[M, N]`` in ``out_dtype``.

    Raises:
        ValueError: a shape or dtype does not match; the message names the tensor.
    """
    _check(x, weight, weight_scales, bias)
    return _epilogue(int8_matmul(x.codes, weight), x.scales, weight_scales, bias, out_dtype)


def int8_matmul(codes: Tensor, weight: Tensor) -> Tensor:
    """Exact int32 ``codes @ weight.T``, int8 ``[M, K]`` by int8 ``[N, K]``."""
    if codes.shape[0] == 0:
        return codes.new_zeros((0, weight.shape[0]), dtype=torch.int32)
    return torch._int_mm(codes, weight.t())


def int8_gemm_reference(
    x: QuantizedActivations,
    weight: Tensor,
    weight_scales: Tensor,
    bias: Tensor | None = None,
    out_dtype: torch.dtype = torch.float32,
) -> Tensor:
    _check(x, weight, weight_scales, bias)
    acc = (x.codes.long() @ weight.long().t()).int()
    return _epilogue(acc, x.scales, weight_scales, bias, out_dtype)


def check_exactness() -> None:
    """Prove on this machine that ``int8_matmul`` does not saturate; run once at start-up.

    Some instruction sets add pairs of INT8 products in INT16. Extreme codes show it.

    Raises:
        RuntimeError: the products are not exact.
    """
    k = 256
    codes = torch.full((17, k), -127, dtype=torch.int8)
    codes[::2] = 127
    weight = torch.full((32, k), -128, dtype=torch.int8)
    weight[::2] = 127
    exact = (codes.long() @ weight.long().t()).int()
    for rows in (1, 17):
        if not torch.equal(int8_matmul(codes[:rows], weight), exact[:rows]):
            raise RuntimeError("this CPU's INT8 matrix product saturates; qoq needs an exact one")


def _epilogue(
    acc: Tensor, x_scales: Tensor, weight_scales: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    y = (x_scales * weight_scales).mul_(acc)
    if bias is not None:
        y += bias
    return y.to(dtype)


def _check(
    x: QuantizedActivations, weight: Tensor, weight_scales: Tensor, bias: Tensor | None
) -> None:
    if x.codes.dtype != torch.int8 or weight.dtype != torch.int8:
        raise ValueError(f"codes, weight: expected int8, got {x.codes.dtype}, {weight.dtype}")
    if weight.dim() != 2 or x.codes.dim() != 2 or weight.shape[1] != x.codes.shape[1]:
        raise ValueError(
            f"weight: expected [N, {x.codes.shape[-1]}] to match codes, got {list(weight.shape)}"
        )
    for name, vector in (("weight_scales", weight_scales), ("bias", bias)):
        if vector is not None and vector.shape != weight.shape[:1]:
            raise ValueError(f"{name}: expected [{weight.shape[0]}], got {list(vector.shape)}")
