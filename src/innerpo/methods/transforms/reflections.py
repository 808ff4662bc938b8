"""Householder reflections I - 2 v v^T / |v|^2, of which the transforms ``ether`` and ``hra`` are products."""

from jaxtyping import Float
from torch import Tensor

from innerpo.methods.records import unit


def reflect(
    x: Float[Tensor, "*batch row width"], v: Float[Tensor, "*batch width"]
) -> Float[Tensor, "*batch row width"]:
    """Reflect every row of x in the hyperplane orthogonal to v; the norm of v does not matter."""
    n = unit(v)[..., None]
    return x - 2.0 * (x @ n) * n.transpose(-1, -2)


def reflect_blocks(
    x: Float[Tensor, "layer row hidden"], v: Float[Tensor, "layer block width"], interleaved: bool
) -> Float[Tensor, "layer row hidden"]:
    """Multiply x by a block-diagonal matrix of reflections, one for each block of coordinates.

    Contiguous blocks are coordinates 0 .. width - 1, width .. 2 width - 1, ...; interleaved blocks take every
    n_blocks-th coordinate, so that the first few coordinates lie in different blocks.
    """
    layers, rows, _ = x.shape
    n_blocks, width = v.shape[1:]
    if interleaved:
        blocks = x.reshape(layers, rows, width, n_blocks).permute(0, 3, 1, 2)
        return reflect(blocks, v).permute(0, 2, 3, 1).reshape(x.shape)
    blocks = x.reshape(layers, rows, n_blocks, width).transpose(1, 2)
    return reflect(blocks, v).transpose(1, 2).reshape(x.shape)
