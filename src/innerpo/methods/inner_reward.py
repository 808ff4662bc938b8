"""The inner reward of a response: the projection of its pooled states on the fitted preference directions."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from innerpo.methods.records import Directions
from innerpo.methods.transforms.transform import Transform
from innerpo.model.forward.outputs import Pool, StateRequest
from innerpo.model.forward.sites import RESIDUAL


@dataclass(frozen=True)
class InnerReward:
    """Fitted directions with everything that identifies the states to which they apply.

    A run's ``directions.safetensors`` holds this record; scoring, steering and export use it.
    """

    layers: tuple[int, ...]
    transform: Transform
    directions: Directions
    pool: Pool = "mean"
    site: str = RESIDUAL

    def __call__(self, pooled: Float[Tensor, "layer seq hidden"]) -> Float[Tensor, " seq"]:
        """Return r = sum_l a_l <w_l, s_l> / sigma_l per response, in reference standard deviations."""
        states, d = self.transform(pooled.cpu()), self.directions
        return (d.layer_weights / d.scale) @ (states * d.w[:, None]).sum(-1)

    @property
    def request(self) -> StateRequest:
        """The hidden states that a forward pass must return."""
        return StateRequest(self.layers, self.pool, site=self.site)
