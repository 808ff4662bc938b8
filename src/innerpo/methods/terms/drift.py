"""The drift term: movement of token states orthogonal to the preference direction."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from innerpo.methods.directions.direction import direction_is_a_mix
from innerpo.methods.records import Term, TermInputs


def orthogonal_drift(
    moved: Float[Tensor, "layer token hidden"],
    w: Float[Tensor, "layer pair hidden"],
    sequence: Int[Tensor, " token"],
    n_tokens: Int[Tensor, " seq"],
    spread: Float[Tensor, " layer"],
    layer_weights: Float[Tensor, " layer"],
) -> Float[Tensor, " pair"]:
    """Return sum_l a_l mean_y mean_{t in R_y} |(I - w w^T) (u_policy - u_ref)|^2 / E |u_ref - mean u_ref|^2.

    ``moved`` is u_policy - u_ref of each completion token. The two responses of a pair weigh the same whatever their
    lengths. 0 at the reference; 1 where states have moved by the root mean square distance of a reference token's state
    from the mean.
    """
    w_of_token = w[:, sequence // 2]
    across = moved - (moved * w_of_token).sum(-1, keepdim=True) * w_of_token
    per_token = (layer_weights / spread) @ across.square().sum(-1)
    share = 0.5 / n_tokens[sequence]
    per_pair = torch.zeros(w.shape[1], dtype=per_token.dtype, device=per_token.device)
    return per_pair.index_add(0, sequence // 2, per_token * share)


def _drift(x: TermInputs) -> Float[Tensor, " pair"]:
    policy, reference = x.policy, x.reference
    assert policy.token_states is not None
    assert policy.sequence is not None
    assert reference.token_states is not None
    assert x.directions is not None
    n_tokens = torch.stack([policy.chosen_n_tokens, policy.rejected_n_tokens], 1).flatten()
    return orthogonal_drift(
        policy.token_states - reference.token_states,
        x.transform.lift(x.w),
        policy.sequence,
        n_tokens,
        x.directions.token_spread,
        x.directions.layer_weights,
    )


drift = Term(_drift, needs="token_states", sees_labels=direction_is_a_mix)
