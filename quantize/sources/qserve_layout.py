"""QServe checkpoints (facts from omniserve's ``checkpoint_converter`` and ``w4a8_linear``).

``qweight`` int8 [N, K / 2] in tiles of 32 rows and 32 inputs, two codes a byte, 16 rows apart.
``s1_scales`` float16 [N]. Per channel, ``s1_szeros`` float16 [N] is zero point times scale. Per
group, ``s2_scales`` and ``s2_zeros`` int8 [G, N] are ``s`` and ``-z * s``, in each 32 rows in the
order 0, 8, 16, 24, 1, 9, 17, 25 and so on; ``-z * s`` may have wrapped around in eight bits, which
the sums with codes undo. Norms were folded, so that gains are ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from qoq.kernels.packing import unpack_codes
from qoq.quantize.errors import ModelSourceError
from qoq.quantize.quantization_config import PER_CHANNEL
from qoq.quantize.sources.checked_tensors import CheckedTensors
from qoq.quantize.sources.quantized_layout import check_widths, count_groups
from qoq.quantize.weights.channel_weight import ChannelWeight
from qoq.quantize.weights.int8_weight import nonzero_scale
from qoq.quantize.weights.lattice import MAX_GROUP_SCALE
from qoq.quantize.weights.progressive_weight import ProgressiveWeight

TILE = 32
HALF_STEP = 2.0**-25  # of float16 below its normal range


@dataclass(frozen=True, slots=True)
class QServeLayout:
    """See ``QuantizedLayout``."""

    tensors: CheckedTensors
    group_size: int

    codes_suffix: ClassVar[str] = "qweight"
    suffixes: ClassVar[tuple[str, ...]] = (
        *("qweight", "s1_scales", "s1_szeros", "s2_scales", "s2_zeros"),
        "kv_scale_quant_orig",  # of QServe's statically quantized cache; ours is dynamic
    )

    @classmethod
    def matches(cls, names: list[str]) -> bool:
        """Whether a folder without a quantization_config was written by QServe."""
        return any(name.endswith((".s1_scales", ".dequant_scale")) for name in names)

    @classmethod
    def open(cls, tensors: CheckedTensors) -> Self:
        names = tensors.folder.names
        stem = next((n.removesuffix(".s1_scales") for n in names if n.endswith(".s1_scales")), None)
        if stem is None:
            raise ModelSourceError(
                "the QServe checkpoint has 8-bit weights, and only 4-bit ones can be imported; "
                "quantize the 16-bit model with --precision w8a8kv8"
            )
        if f"{stem}.s2_scales" not in tensors:
            return cls(tensors, PER_CHANNEL)
        k = 2 * tensors.shape(f"{stem}.qweight")[1]
        num_groups = tensors.shape(f"{stem}.s2_scales")[0]
        return cls(tensors, check_widths("QServe", 4, k // max(1, num_groups)))

    def read(self, stem: str, n: int, k: int) -> ChannelWeight | ProgressiveWeight:
        codes = self._codes(f"{stem}.qweight", n, k)
        if self.group_size == PER_CHANNEL:
            return self._channel_weight(stem, codes)
        return self._progressive_weight(stem, codes)

    def _codes(self, name: str, n: int, k: int) -> Tensor:
        if n % TILE or k % TILE:
            raise self.tensors.error(name, f"holds [{n}, {k}] codes, not whole tiles of 32 x 32")
        packed = self.tensors.load(name, n, k // 2, dtypes=(torch.int8,))
        return from_tiles(packed.view(torch.uint8))

    def _channel_weight(self, stem: str, codes: Tensor) -> ChannelWeight:
        scales = self.tensors.scales(f"{stem}.s1_scales", len(codes))
        scaled_zeros = self.tensors.scales(f"{stem}.s1_szeros", len(codes))
        zeros = (scaled_zeros / nonzero_scale(scales)).round()
        # Both factors and their product were rounded to float16.
        slack = zeros * (scales * 2.0**-10 + 2 * HALF_STEP) + 2 * HALF_STEP
        if (zeros > 15).any() or ((scaled_zeros - zeros * scales).abs() > slack).any():
            raise self.tensors.error(
                f"{stem}.s1_szeros", "is not a whole multiple, 0 to 15, of s1_scales"
            )
        return ChannelWeight(codes, scales, zeros.to(torch.uint8))

    def _progressive_weight(self, stem: str, codes: Tensor) -> ProgressiveWeight:
        n, k = codes.shape
        num_groups = count_groups(f"{stem}.s2_scales", k, self.group_size)
        scales = self.tensors.scales(f"{stem}.s1_scales", n)
        s, b = (
            from_lanes(self.tensors.load(name, num_groups, n, dtypes=(torch.int8,)))
            for name in (f"{stem}.s2_scales", f"{stem}.s2_zeros")
        )
        if (s < 1).any() or (s > MAX_GROUP_SCALE).any():
            raise self.tensors.error(f"{stem}.s2_scales", f"leaves 1..{MAX_GROUP_SCALE}")
        codes, b = unwrap(codes.view(n, -1, self.group_size), s.short(), b.short())
        if (b < -128).any():
            raise self.tensors.error(f"{stem}.s2_zeros", "makes weights that INT8 cannot hold")
        return ProgressiveWeight(
            codes.flatten(1).to(torch.uint8), scales, s.to(torch.uint8), b.to(torch.int8)
        )


def from_tiles(packed: Tensor) -> Tensor:
    """``qweight`` as uint8 to codes uint8 [N, K].

    Within a tile a row is ``16 a + 8 b + c`` and an input ``16 d + 4 e + f``; bytes are in the
    order c, e, d, b, f, and a tells the high four bits from the low ones.
    """
    n, half_k = packed.shape
    c_e_d_b_f_a = unpack_codes(packed).view(n // TILE, 2 * half_k // TILE, 8, 4, 2, 2, 4, 2)
    return c_e_d_b_f_a.permute(0, 7, 5, 2, 1, 4, 3, 6).reshape(n, 2 * half_k)


def from_lanes(stored: Tensor) -> Tensor:
    """``s2_scales`` or ``s2_zeros`` [G, N] to [N, G]: rows 8 apart stand side by side."""
    num_groups, n = stored.shape
    lanes = stored.view(num_groups, n // TILE, 8, 4)
    return lanes.transpose(2, 3).reshape(num_groups, n).t().contiguous()


def unwrap(codes: Tensor, s: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The same integers ``codes * s + b`` (mod 256) without wrapping: codes [N, G, group] and b.

    A group that passes 127 has lost 256 from its offset. Its codes are lowered to start at 0, so
    that the true offset fits again; one below -128 is left for a group that is illegal anyhow.
    """
    has_wrapped = codes.amax(dim=-1) * s + b > 127
    lowest = torch.where(has_wrapped, codes.amin(dim=-1), 0)
    return codes - lowest[..., None], torch.where(has_wrapped, b - 256 + lowest * s, b)
