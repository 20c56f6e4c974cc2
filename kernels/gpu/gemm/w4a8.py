"""The W4A8 GEMM of a CUDA device: ``y = float(x @ W8'.T) * (s_x * s_w)``, by the fastest kernel.

Which kernel and which tiles is looked up, never tried out while serving.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from qoq.kernels.gpu.gemm.w4a8_config import Config, HopperTile, portable_config
from qoq.kernels.gpu.gemm.w4a8_gluon import can_run, w4a8_gemm_gluon
from qoq.kernels.gpu.gemm.w4a8_operands import Workspace
from qoq.kernels.gpu.gemm.w4a8_table import Shape, shipped_table
from qoq.kernels.gpu.gemm.w4a8_triton import w4a8_gemm_triton
from qoq.kernels.gpu.gemm.w4a8_weight import W4A8Weight
from qoq.kernels.quantize import QuantizedActivations

MAX_LOOKUPS = 4096  # shapes by numbers of tokens


class W4A8Gemm:
    """Multiplies on one stream of ``device``; not for two streams at once (the workspace).

    ``arch`` is the compute capability, 90 for sm_90, or None for that of ``device``.
    """

    def __init__(self, device: torch.device, arch: int | None = None) -> None:
        self.arch = arch or _arch(device)
        self.workspace = Workspace(device)
        table = shipped_table(self.arch)
        self._choose = None if table is None else lru_cache(MAX_LOOKUPS)(table.choose)

    def __call__(
        self,
        x: QuantizedActivations,
        weight: W4A8Weight,
        bias: Tensor | None = None,
        out_dtype: torch.dtype = torch.float16,
        x_sums: Tensor | None = None,
    ) -> Tensor:
        """``[M, K]`` codes, rows contiguous, by ``weight``; ``[M, N]`` in ``out_dtype``.

        A gated weight gives ``silu(gate) * up`` ``[M, N / 2]``, with the bits that ``silu_mul``
        makes of both rounded to ``out_dtype``. ``bias`` ``[N]``, in the order of the weight's rows,
        is added in fp32. ``x_sums`` int32 ``[M]`` are the sums of the codes, which a weight with
        zero points needs; they are computed where they are not given.

        Raises:
            ValueError: a shape, dtype or device does not match; the message names the tensor.
        """
        config = self.choose(x, weight, out_dtype)
        return multiply(x, weight, config, self.workspace, bias, out_dtype, x_sums)

    def choose(
        self, x: QuantizedActivations, weight: W4A8Weight, out_dtype: torch.dtype = torch.float16
    ) -> Config:
        m = x.codes.shape[0]
        if self._choose is not None:
            shape = Shape(weight.n, weight.k, weight.zeros is not None)
            config = self._choose(shape, m)
            if not isinstance(config, HopperTile) or can_run(x, weight, out_dtype):
                return config
        return portable_config(m, self.arch)


def _arch(device: torch.device) -> int:
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def multiply(
    x: QuantizedActivations,
    weight: W4A8Weight,
    config: Config,
    workspace: Workspace,
    bias: Tensor | None = None,
    out_dtype: torch.dtype = torch.float16,
    x_sums: Tensor | None = None,
) -> Tensor:
    """By the kernel that ``config`` is for. Raises as ``W4A8Gemm`` does."""
    kernel = w4a8_gemm_gluon if isinstance(config, HopperTile) else w4a8_gemm_triton
    return kernel(x, weight, config, workspace, bias, out_dtype, x_sums)  # type: ignore[arg-type]
