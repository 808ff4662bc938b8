"""ortho: any k orthonormal rows, by torch's orthogonal parametrisation, chosen by the subspace fit."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

from innerpo.config.method import MethodConfig
from innerpo.methods.transforms.random import random_basis
from innerpo.methods.transforms.subspace_fit import learn_basis
from innerpo.methods.transforms.transform import FitInputs, Transform, count_of, freeze


class OrthogonalBasis(nn.Module):
    """A start rotated by the Cayley map of a skew-symmetric matrix, the fastest of torch's maps at these sizes."""

    basis: Tensor

    def __init__(self, start: Float[Tensor, "layer rank hidden"], seed: int) -> None:
        super().__init__()
        self.basis = nn.Parameter(start.clone())
        with torch.random.fork_rng(
            devices=[]
        ):  # torch completes the start to a square matrix with the global generator
            torch.manual_seed(seed)
            orthogonal(self, "basis", orthogonal_map="cayley")

    def forward(self) -> Float[Tensor, "layer rank hidden"]:
        """Return the basis of every layer."""
        return self.basis


def fit(inputs: FitInputs, method: MethodConfig) -> Transform:
    """Fit a basis from a seeded random start and freeze it."""
    rank = count_of(method.subspace.rank, inputs.hidden, "rank")
    module = OrthogonalBasis(random_basis(inputs, rank, "ortho"), inputs.generator("ortho completion").initial_seed())
    # each entry of the skew matrix rotates one plane, and each row of the basis lies in about `hidden` of them
    return freeze("ortho", learn_basis("ortho", module, inputs, method.subspace, step_scale=inputs.hidden**-0.5))
