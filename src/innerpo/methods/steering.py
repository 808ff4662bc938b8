"""A run's preference directions as a steering vector of the residual stream.

Representation engineering (arXiv 2310.01405) adds a direction to hidden states at inference. The unit chosen here:
coefficient 1 moves each token's normalised state by one standard deviation sigma_l of the reference along w_l, in every
block read, so that the inner reward r = sum_l a_l <w_l, s_l> / sigma_l rises by sum_l a_l = 1 (to first order, before
later blocks answer to it).
"""

from innerpo.errors import UserError
from innerpo.methods.inner_reward import InnerReward
from innerpo.model.forward.sites import RESIDUAL
from innerpo.model.steering import SteeringVector


def steering_vector(inner: InnerReward) -> SteeringVector:
    """Return v_l = rms_l sigma_l Q_l^T w_l for every block whose direction has a weight a_l above 0.

    rms_l is the mean root mean square of the reference's token states, which turns normalised states into those of the
    residual stream. Raises UserError for directions of another site, and for those that were saved without rms_l.
    """
    directions = inner.directions
    if inner.site != RESIDUAL:
        raise UserError(
            f"steering adds to the residual stream; the directions of this run are of the site {inner.site!r}"
        )
    if directions.token_rms is None:
        raise UserError("these directions were saved without the size of the states, the unit of steering: train again")
    lifted = inner.transform.lift(directions.w[:, None])[:, 0]
    vectors = (directions.token_rms * directions.scale)[:, None] * lifted
    used = [i for i, weight in enumerate(directions.layer_weights.tolist()) if weight > 0]
    return SteeringVector(tuple(inner.layers[i] for i in used), vectors[used].float())
