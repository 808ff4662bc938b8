"""Anchors: on unlabelled texts the policy should stay where the reference is, in its states or in its output."""

import torch
from jaxtyping import Float
from torch import Tensor

from innerpo.methods.records import Term, TermInputs


def relative_movement(
    moved: Float[Tensor, "layer token hidden"], spread: Float[Tensor, " layer"]
) -> Float[Tensor, " token"]:
    """Return mean_l |u_policy - u_ref|^2 / E |u_ref - mean u_ref|^2 of each token.

    0 at the reference; 1 where states have moved by the root mean square distance of a token's state from the mean.
    Rescaling or rotating a layer changes nothing.
    """
    return (moved.square().sum(-1) / spread[:, None]).mean(0)


def k3(log_ratio: Float[Tensor, " token"]) -> Float[Tensor, " token"]:
    """Return exp(r) - 1 - r for r = log pi(t) - log ref(t): the estimator k3 of KL(ref || pi), in nats.

    Schulman 2020, Approximating KL divergence (joschu.net/blog/kl-approx.html). For tokens drawn from the reference its
    mean is KL(ref || pi), and its gradient has the mean of that divergence's gradient. On given texts, which the
    reference did not write, it is an estimate for the next tokens as the text has them. It is never negative.
    """
    return torch.expm1(log_ratio) - log_ratio


def _anchor_drift(x: TermInputs) -> Float[Tensor, " pair"]:
    """Return the mean movement of the text's token states, in units of the spread of all the texts."""
    text = x.companions["anchor"]
    assert text.policy.token_states is not None
    assert text.reference.token_states is not None
    assert text.token_spread is not None
    moved = text.policy.token_states - text.reference.token_states
    return text.mean_over_tokens(relative_movement(moved, text.token_spread))


def _anchor_kl(x: TermInputs) -> Float[Tensor, " pair"]:
    """Return the mean of k3 over the text's tokens, in nats per token."""
    text = x.companions["anchor"]
    assert text.policy.token_logps is not None
    assert text.reference.token_logps is not None
    return text.mean_over_tokens(k3(text.policy.token_logps - text.reference.token_logps))


anchor_drift = Term(_anchor_drift, needs="logps", sees_labels=False, companions={"anchor": "token_states"})
anchor_kl = Term(_anchor_kl, needs="logps", sees_labels=False, companions={"anchor": "logps"})
