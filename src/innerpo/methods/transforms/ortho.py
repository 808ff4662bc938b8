"""ortho: any k orthonormal rows, by torch's orthogonal parametrisation, learned by a probe."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

from innerpo.config.method import MethodConfig
from innerpo.methods.transforms.random import random_rows
from innerpo.methods.transforms.subspace_fit import learn_basis
from innerpo.methods.transforms.transform import FitInputs, Transform, count_of, freeze


class OrthogonalRows(nn.Module):
    """Rows turned from a start by the Cayley map of a skew matrix, the fastest of torch's maps at these sizes."""

    rows: Tensor

    def __init__(self, start: Float[Tensor, "layer rank hidden"], seed: int) -> None:
        super().__init__()
        self.rows = nn.Parameter(start.clone())
        with torch.random.fork_rng(devices=[]):  # torch completes the start to a whole basis with global random numbers
            torch.manual_seed(seed)
            orthogonal(self, "rows", orthogonal_map="cayley")

    def forward(self) -> Float[Tensor, "layer rank hidden"]:
        """Return the rows of every layer."""
        return self.rows


def fit(inputs: FitInputs, method: MethodConfig) -> Transform:
    """Learn rows from those of the transform ``random`` with the same seed, and freeze them."""
    rank = count_of(method.subspace.rank, inputs.hidden, "rank")
    module = OrthogonalRows(random_rows(inputs, rank), inputs.seed)
    # each entry of the skew matrix turns one plane, and a row takes part in some `hidden` of them
    return freeze("ortho", learn_basis("ortho", module, inputs, method.subspace, step_scale=inputs.hidden**-0.5))
