"""What a warp group multiplies in ``w4a8_gluon_kernel``: weights that it dequantizes once, by the
tokens of a tile in strips of falling powers of two, as Gluon has no other sizes. Each strip has
its own activations in shared memory and its own sums.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import warpgroup_mma, warpgroup_mma_wait


@gluon.jit
def dequantize(w, group, HIGH: gl.constexpr):
    """Low or high nibbles of uint8 ``w`` [rows, 64] as int8, by the words of their groups."""
    scale = gl.expand_dims(group & 0xFF, 1)
    offset = gl.expand_dims((group >> 8) * 0x01010101, 1)
    _, scale = gl.broadcast(w, scale)
    w, offset = gl.broadcast(w, offset)
    SHIFT: gl.constexpr = "shr.u32 t, $1, 4; and.b32 t, t," if HIGH else "and.b32 t, $1,"
    return gl.inline_asm_elementwise(
        "{ .reg .b32 t; "
        + SHIFT
        + " 0x0F0F0F0F; mad.lo.u32 t, t, $2, $6; xor.b32 $0, t, 0x80808080; }",
        "=r,r,r,r,r,r,r,r,r,r",
        [w, scale, offset],
        dtype=gl.int8,
        is_pure=True,
        pack=4,
    )


@gluon.jit
def only_codes(w, HIGH: gl.constexpr):
    """The codes themselves."""
    SHIFT: gl.constexpr = "shr.u32 t, $1, 4; and.b32 $0, t," if HIGH else "and.b32 $0, $1,"
    return gl.inline_asm_elementwise(
        "{ .reg .b32 t; " + SHIFT + " 0x0F0F0F0F; }",
        "=r,r",
        [w],
        dtype=gl.int8,
        is_pure=True,
        pack=4,
    )


@gluon.constexpr_function
def num_strips(block_m: int) -> int:
    return block_m.bit_count()


@gluon.constexpr_function
def first_row(strip: int, block_m: int) -> int:
    """Of a strip of so many tokens in a tile of ``block_m``: those before it are larger."""
    return block_m // (2 * strip) * (2 * strip)


@gluon.constexpr_function
def sums_layout(strip: int) -> gl.NVMMADistributedLayout:
    """Of ``[channels, strip]`` sums in a warp group's registers."""
    return gl.NVMMADistributedLayout([3, 0], [4, 1], [16, min(strip, 128), 32])


@gluon.jit
def zero_sums(x_rings, HEIGHT: gl.constexpr):
    return [_zeros(HEIGHT, ring.shape[1]) for ring in x_rings]


@gluon.jit
def _zeros(HEIGHT: gl.constexpr, WIDTH: gl.constexpr):
    return gl.zeros([HEIGHT, WIDTH], gl.int32, sums_layout(WIDTH))


@gluon.jit
def strips_at(x_rings, place):
    """Activations [tokens, 64] of each strip."""
    return [ring.index(place) for ring in x_rings]


@gluon.jit
def begin_products(w, xs, accs):
    """Adds to each strip's sums, in time, its activations by ``w`` [channels, 64]."""
    sums = []
    for strip in gl.static_range(len(xs)):
        operand = _operand(w, xs[strip].shape[0])
        sums += [warpgroup_mma(operand, xs[strip].permute([1, 0]), accs[strip], is_async=True)]
    return sums


@gluon.jit
def _operand(w, WIDTH: gl.constexpr):
    layout: gl.constexpr = gl.DotOperandLayout(0, sums_layout(WIDTH), 4)
    return gl.convert_layout(w, layout, assert_trivial=True)


@gluon.jit
def end_products(accs, xs):
    """Waits for all that ``begin_products`` began, of ``xs`` the last."""
    return warpgroup_mma_wait(0, deps=accs + xs)[: len(accs)]
