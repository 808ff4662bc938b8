"""The regressors: directions in which differences grow with length and with likelihood."""

import torch
from jaxtyping import Float
from torch import Tensor

from innerpo.methods.subspaces.subspace import Kind, SubspaceInputs


def _regressors(x: SubspaceInputs) -> Float[Tensor, "layer hidden column"]:
    """Return the coefficients B of d_i = b + B z_i (least squares), z the differences in log length and mean log-prob.

    Length comes first. Each column points the way in which chosen responses exceed rejected ones on average. A
    regressor that does not vary over the pairs has a column of zeros.
    """
    z = x.regressors.to(x.d)
    spread = z.std(0)
    varies = spread > 1e-9 * z.abs().amax(0).clamp(min=1e-300)
    centred = torch.where(varies, (z - z.mean(0)) / spread.clamp(min=1e-300), 0.0)
    coefficients = torch.linalg.pinv(centred) @ (x.d - x.d.mean(1, keepdim=True))  # layer regressor hidden
    sign = torch.where(z.mean(0) < 0.0, -1.0, 1.0)
    return torch.where(varies[:, None], sign[:, None] * coefficients, 0.0).mT


regressors = Kind(_regressors)
