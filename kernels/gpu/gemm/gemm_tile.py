"""What the Triton GEMMs share: the order of tiles, the sum over splits of K, the scaled result."""

import triton
import triton.language as tl

from qoq.kernels.gpu.silu_mul import silu_mul


@triton.jit
def place_tile(tile, M, N, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """Tile ``(m, n)``. Eight columns of tiles at a time: neighbours share operands in the L2."""
    tiles_m = tl.cdiv(M, BLOCK_M)
    tiles_n = tl.cdiv(N, BLOCK_N)
    band = 8 * tiles_m
    first_n = tile // band * 8
    width = min(tiles_n - first_n, 8)
    return tile % band // width, first_n + tile % band % width


@triton.jit
def sum_splits(
    acc,
    partial_ptr,
    counter_ptr,
    tile,
    split,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    SPLIT_K: tl.constexpr,
):
    """The sum of all splits' ``acc`` int32 [BLOCK_N, BLOCK_M], and whether this is the last split
    of the tile to arrive, which alone gets it. It sets the counter back to 0.
    """
    is_last = True
    if SPLIT_K > 1:
        size: tl.constexpr = BLOCK_M * BLOCK_N
        place = tl.arange(0, BLOCK_N)[:, None] * BLOCK_M + tl.arange(0, BLOCK_M)[None, :]
        own = partial_ptr + tile.to(tl.int64) * (SPLIT_K * size) + place
        tl.store(own + split * size, acc)
        tl.debug_barrier()
        is_last = tl.atomic_add(counter_ptr + tile, 1, sem="acq_rel") == SPLIT_K - 1
        if is_last:
            acc = tl.zeros_like(acc)
            for other in range(SPLIT_K):
                acc += tl.load(own + other * size, cache_modifier=".cg")
            tl.store(counter_ptr + tile, 0)
    return acc, is_last


@triton.jit
def store_scaled(
    acc,
    row,
    tile_n,
    x_scale_ptr,
    w_scale_ptr,
    bias_ptr,
    y_ptr,
    M,
    N,
    HAS_BIAS: tl.constexpr,
    IS_GATED: tl.constexpr = False,
):
    """``float(acc) * (s_x * s_w) + bias`` to ``y`` [M, N], of ``acc`` int32 [columns, rows]; or,
    where columns are ``pair_rows``', ``silu(gate) * up`` of that to ``y`` [M, N / 2].
    """
    column = tile_n * acc.shape[0] + tl.arange(0, acc.shape[0])
    in_n = column < N
    in_m = row < M
    w_scale = tl.load(w_scale_ptr + column, mask=in_n, other=0.0)
    x_scale = tl.load(x_scale_ptr + row, mask=in_m, other=0.0)
    y = acc.to(tl.float32) * (x_scale[None, :] * w_scale[:, None])
    if HAS_BIAS:
        y += tl.load(bias_ptr + column, mask=in_n, other=0.0).to(tl.float32)[:, None]
    y = y.to(y_ptr.dtype.element_ty)
    if IS_GATED:
        y = _gated(y)
        N //= 2
        column = tile_n * y.shape[0] + tl.arange(0, y.shape[0])
        in_n = column < N
    y_ptrs = y_ptr + row[None, :].to(tl.int64) * N + column[:, None]
    tl.store(y_ptrs, y, mask=in_n[:, None] & in_m[None, :])


@triton.jit
def _gated(y):
    """[columns, rows] to half the columns: eight of gate's and eight of up's take turns."""
    ROWS: tl.constexpr = y.shape[1]
    pairs = tl.permute(tl.reshape(y, [y.shape[0] // 16, 2, 8, ROWS]), [0, 2, 3, 1])
    gate, up = tl.split(pairs)
    values = silu_mul(gate.to(tl.float32), up.to(tl.float32)).to(y.dtype)
    return tl.reshape(values, [y.shape[0] // 2, ROWS])
