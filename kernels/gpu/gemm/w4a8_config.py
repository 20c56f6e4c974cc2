"""How a W4A8 GEMM may be computed. The bits of the result are the same for all of these."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

STREAM_K = 0
MAX_STRIPS = 3


class TileConfig(NamedTuple):
    """For ``w4a8_triton``. A tile of the output is ``block_m`` tokens by ``block_n`` channels.

    K is split into at most ``split_k`` equal parts. ``overlaps`` starts the kernel before the one
    in front of it ends (programmatic dependent launch, from sm_90 on): it then fetches its first
    weights into the L2 while it waits for the activations.
    """

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int
    split_k: int = 1
    overlaps: bool = False


class HopperTile(NamedTuple):
    """For ``w4a8_gluon``. A tile of the output is ``block_m`` tokens by ``channels``: 256, 128 or
    64.

    A stage holds ``boxes`` times 128 input channels. ``split_k`` 1 computes whole tiles, more cuts
    K into that many parts, ``STREAM_K`` gives each block the same number of stages. With
    ``takes_turns`` the two groups hand the tensor cores to each other, which pays where these are
    the limit.

    Of 256 or 128 channels each of the two groups has a half. 64 channels they share: each
    multiplies every other box, of which there must be an even number. 256 channels read the
    activations half as often as 128, for at most 128 tokens: more sums fill no registers.

    ``block_m`` is a power of two or, but for tiles of 64 channels, the sum of up to three.
    """

    block_m: int
    num_stages: int
    boxes: int = 1
    split_k: int = 1
    blocks_per_sm: int = 1
    takes_turns: bool = False
    channels: int = 128

    @property
    def parts(self) -> int:
        """Of a tile's channels, a warp group each."""
        return 1 if self.channels == 64 else 2

    @property
    def strips(self) -> tuple[int, ...]:
        """Of a tile's tokens, falling powers of two. Raises ValueError for what no tile has."""
        strips = _powers_of_2(self.block_m)
        most = 1 if self.channels == 64 else MAX_STRIPS
        if len(strips) > most or strips[-1] < 16:
            raise ValueError(
                f"block_m: expected at most {most} powers of two from 16 on, got {self.block_m}"
            )
        return strips


@cache
def _powers_of_2(number: int) -> tuple[int, ...]:
    """That add up to ``number``, the largest first."""
    return tuple(1 << bit for bit in reversed(range(number.bit_length())) if number >> bit & 1)


Config = TileConfig | HopperTile


def portable_config(m: int, arch: int) -> TileConfig:
    """A choice that runs wherever Triton does, for ``m`` tokens on compute capability ``arch``."""
    overlaps = arch >= 90
    if m <= 32:
        return TileConfig(16 if m <= 16 else 32, 64, 4, 5, 4, overlaps)
    if m <= 64:
        return TileConfig(64, 64, 4, 4, 2, overlaps)
    return TileConfig(128, 128, 8, 3, 1, overlaps)
