"""A run's preference directions as a steering vector of the residual stream.

Representation engineering (Zou et al. 2023, arXiv 2310.01405) adds a direction to hidden states at inference. Here a
coefficient of 1 moves each token's normalised state by one standard deviation sigma_l of the reference along w_l, in
every block that is read. The inner reward r = sum_l a_l <w_l, s_l> / sigma_l then rises by sum_l a_l = 1, to first
order and without the response of later blocks.
"""

from innerpo.errors import UserError
from innerpo.methods.inner_reward import InnerReward
from innerpo.model.forward.sites import RESIDUAL
from innerpo.model.steering import SteeringVector


def steering_vector(inner: InnerReward) -> SteeringVector:
    """Return v_l = rms_l sigma_l Q_l^T w_l for every block whose direction has a weight a_l above 0.

    rms_l, the mean root mean square of the reference's token states, converts normalised states to the residual stream.
    Raises UserError for directions of another site, and where rms_l is missing.
    """
    directions = inner.directions
    if inner.site != RESIDUAL:
        raise UserError(
            f"steering needs directions of the residual stream; those of this run are of method.site={inner.site}"
        )
    if directions.token_rms is None:
        raise UserError(
            "these directions have no token_rms, the unit of steering; fit them with InnerPO's reference pass"
        )
    lifted = inner.transform.lift(directions.w[:, None])[:, 0]
    vectors = (directions.token_rms * directions.scale)[:, None] * lifted
    used = [i for i, weight in enumerate(directions.layer_weights.tolist()) if weight > 0]
    return SteeringVector(tuple(inner.layers[i] for i in used), vectors[used].float())
