"""What a cue is: an orthonormal basis per block in the residual stream's coordinates, fitted on the reference."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from innerpo.config.method import MethodConfig
from innerpo.errors import UserError
from innerpo.methods.generators import generator_for
from innerpo.registry import SUBSPACES, resolve

SMALL = 1e-6
"""Part of a column's length below which what remains of it, beside the columns before, counts as rounding."""


@dataclass(frozen=True)
class Subspace:
    """A fitted cue. Per layer: the columns of ``basis`` are orthonormal, or zero where it has fewer dimensions.

    ``scale`` is the standard deviation of the reference's differences along the first column.
    """

    basis: Float[Tensor, "layer hidden rank"]
    scale: Float[Tensor, " layer"]

    def to(self, device: torch.device) -> "Subspace":
        """Return the subspace on a device."""
        return Subspace(self.basis.to(device), self.scale.to(device))


@dataclass(frozen=True)
class SubspaceInputs:
    """What a cue is fitted on, all of the reference model on the training pairs.

    ``d`` holds the state differences (chosen minus rejected) in float64, without any transform. ``regressors`` are each
    pair's differences in log token count and in mean log-probability per token. ``d_mis`` holds the differences of the
    same responses behind another pair's prompt; None where they were not computed. ``rank`` is the most columns wanted;
    ``generator`` is seeded.
    """

    d: Float[Tensor, "layer pair hidden"]
    regressors: Float[Tensor, "pair regressor"]
    rank: int
    generator: torch.Generator
    d_mis: Float[Tensor, "layer pair hidden"] | None = None


@dataclass(frozen=True)
class Kind:
    """A named kind of cue. ``columns`` returns what spans it, most important first, of any lengths and angles.

    ``mismatched``: it reads ``d_mis``, so the reference must also be run on the mismatched companions
    (data/companions.py).
    """

    columns: Callable[[SubspaceInputs], Float[Tensor, "layer hidden column"]]
    mismatched: bool = False

    def __call__(self, x: SubspaceInputs) -> Float[Tensor, "layer hidden column"]:
        """Return the columns."""
        return self.columns(x)


def fit_subspace(x: SubspaceInputs, method: MethodConfig, seed: int) -> Subspace:
    """Return the cue that a method's config names. Raises UserError where there is nothing of it in the pairs."""
    kind: Kind = resolve(SUBSPACES, method.cue, "method.cue")
    drawn = replace(x, generator=generator_for(seed, f"subspace/{method.cue}"))
    columns = kind(drawn) if method.inoculate == 0.0 else _zeros_last(kind(drawn))  # it goes along the first one alone
    basis = orthonormal(columns[:, :, : method.cue_rank])
    if not bool((basis != 0.0).any(1).any(1).all()):
        raise UserError(
            f"method.cue={method.cue} has no direction on these training pairs: what it describes does not vary"
        )
    along = (x.d.double() @ basis[:, :, :1]).squeeze(-1)
    scale = along.std(1)
    if method.inoculate != 0.0 and bool((scale <= 1e-9 * along.abs().amax(1)).any()):
        raise UserError(
            f"method.cue={method.cue} cannot be inoculated: all training pairs differ alike along its first direction, "
            "so that its standard deviation, by which the push is measured, is 0"
        )
    return Subspace(basis.float(), scale.float())


def _zeros_last(columns: Float[Tensor, "layer hidden column"]) -> Float[Tensor, "layer hidden column"]:
    """Return columns in their order, those of zeros (what does not vary over the pairs) behind the others."""
    order = torch.argsort((columns == 0.0).all(1).long(), dim=-1, stable=True)
    return columns.gather(-1, order[:, None].expand_as(columns))


def orthonormal(columns: Float[Tensor, "layer hidden column"]) -> Float[Tensor, "layer hidden column"]:
    """Make columns orthonormal, each kept as it is but for the parts along those before it (Gram-Schmidt, twice).

    A column that lies in the span of those before it becomes zero.
    """
    basis: list[Tensor] = []
    for column in columns.double().unbind(-1):
        whole, rest = column.norm(dim=-1, keepdim=True), column
        for found in basis * 2:
            rest = rest - (rest * found).sum(-1, keepdim=True) * found
        left = rest.norm(dim=-1, keepdim=True)
        basis.append(torch.where(left > SMALL * whole, rest / left.clamp(min=1e-300), 0.0))
    return torch.stack(basis, -1)


def towards_chosen(
    columns: Float[Tensor, "layer hidden column"], d: Float[Tensor, "layer pair hidden"]
) -> Float[Tensor, "layer hidden column"]:
    """Turn columns round where the mean difference has a negative component along them."""
    along = d.mean(1).to(columns)[:, None] @ columns
    return torch.where(along < 0.0, -columns, columns)


def top_components(d: Float[Tensor, "layer pair hidden"], count: int) -> Float[Tensor, "layer hidden column"]:
    """Return the first principal components of differences, not centred: their mean is part of what they show.

    A component in which no pair differs is zero.
    """
    _, size, rows = torch.linalg.svd(d.double(), full_matrices=False)
    spanned = size > SMALL * size[:, :1]
    return torch.where(spanned[:, :, None], rows, 0.0)[:, :count].mT
