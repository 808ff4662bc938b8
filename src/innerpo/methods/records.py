"""What loss terms are given: outputs of policy and reference on pairs, and the preference directions."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from innerpo.config.method import MethodConfig
from innerpo.data.batching.batch import TokenBatch
from innerpo.methods.transforms.transform import Transform
from innerpo.model.forward.outputs import SequenceOutputs

Needs = Literal["logps", "states", "token_states"]


@dataclass(frozen=True)
class PairOutputs:
    """Outputs on a batch of pairs: summed log-probs (nats), token counts, transformed pooled states.

    ``token_states`` are the RMS-normalised, untransformed states of all completion tokens; ``sequence`` says which response
    a token belongs to (2i is pair i's chosen one, 2i + 1 its rejected one).
    """

    chosen_logps: Float[Tensor, " pair"]
    rejected_logps: Float[Tensor, " pair"]
    chosen_n_tokens: Int[Tensor, " pair"]
    rejected_n_tokens: Int[Tensor, " pair"]
    chosen_states: Float[Tensor, "layer pair rank"] | None = None
    rejected_states: Float[Tensor, "layer pair rank"] | None = None
    token_states: Float[Tensor, "layer token hidden"] | None = None
    sequence: Int[Tensor, " token"] | None = None

    @classmethod
    def of(cls, outputs: SequenceOutputs, batch: TokenBatch, transform: Transform) -> "PairOutputs":
        """Split a batch's responses into chosen and rejected, and transform the pooled states."""
        pooled = None if outputs.pooled is None else transform(outputs.pooled)
        return cls(
            chosen_logps=outputs.logps[0::2],
            rejected_logps=outputs.logps[1::2],
            chosen_n_tokens=outputs.n_tokens[0::2],
            rejected_n_tokens=outputs.n_tokens[1::2],
            chosen_states=None if pooled is None else pooled[:, 0::2],
            rejected_states=None if pooled is None else pooled[:, 1::2],
            token_states=outputs.token_states,
            sequence=batch.sequence,
        )

    @property
    def difference(self) -> Float[Tensor, "layer pair rank"]:
        """s_l(y_c) - s_l(y_r): d_l of the reference, delta_l of the policy."""
        assert self.chosen_states is not None
        assert self.rejected_states is not None
        return self.chosen_states - self.rejected_states


@dataclass(frozen=True)
class Directions:
    """Preference directions, from the reference model alone, frozen.

    ``w`` is unit norm per layer; ``scale`` is sigma_l, the reference's standard deviation along it; ``layer_weights``
    sum to 1; ``accuracy`` is the leave-one-out accuracy of the direction's sign; ``token_spread`` is the unit of drift;
    ``token_rms`` is the mean root mean square of a token's state (None where it is not known).
    """

    w: Float[Tensor, "layer rank"]
    scale: Float[Tensor, " layer"]
    layer_weights: Float[Tensor, " layer"]
    accuracy: Float[Tensor, " layer"]
    token_spread: Float[Tensor, " layer"]
    own: float = 0.0
    token_rms: Float[Tensor, " layer"] | None = None

    def of_pairs(self, d: Float[Tensor, "layer pair rank"]) -> Float[Tensor, "layer pair rank"]:
        """Return w_{l,i}: the shared direction, the pair's own (own = 1), or the unit of their mix."""
        shared = self.w[:, None].expand_as(d)
        if self.own == 0.0:
            return shared
        mixed = (1.0 - self.own) * shared + self.own * unit(d)
        return unit(mixed)

    def to(self, device: torch.device) -> "Directions":
        """Return the directions on a device."""
        tensors: dict[str, Any] = {f.name: v for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)}
        return replace(self, **{name: tensor.to(device) for name, tensor in tensors.items()})


@dataclass(frozen=True)
class TermInputs:
    """All that a loss term may look at. ``directions`` is None only for terms that need nothing but logps."""

    policy: PairOutputs
    reference: PairOutputs
    directions: Directions | None
    transform: Transform
    method: MethodConfig

    @property
    def w(self) -> Float[Tensor, "layer pair rank"]:
        """Each pair's preference directions."""
        assert self.directions is not None
        return self.directions.of_pairs(self.reference.difference)


@dataclass(frozen=True)
class Term:
    """A named part of a loss: a pure function of TermInputs to one value per pair, and what it must be given.

    ``sees_labels`` declares whether a swap of chosen and rejected (directions held) should change the term, for any
    method or by the method's config; the doctor checks it. None: not declared, reported but not judged.
    """

    function: Callable[[TermInputs], Float[Tensor, " pair"]]
    needs: Needs
    sees_labels: Callable[[MethodConfig], bool] | bool | None = None

    def label_expectation(self, method: MethodConfig) -> bool | None:
        """Whether the term should see labels in this method; None where nobody said."""
        return self.sees_labels(method) if callable(self.sees_labels) else self.sees_labels


def direction_sees_labels(method: MethodConfig) -> bool:
    """Whether the direction stays when a pair is swapped: the pair's own turns round with it, and hides the label."""
    return method.direction != "pair" and not (method.direction == "mix" and method.mix == 1.0)


def direction_is_a_mix(method: MethodConfig) -> bool:
    """Whether the direction is neither kept nor exactly turned round by a swap, so that even its axis changes."""
    return method.direction == "mix" and 0.0 < method.mix < 1.0


def unit(x: Float[Tensor, "... rank"]) -> Float[Tensor, "... rank"]:
    """Return x / |x|; zero stays zero, with a finite gradient."""
    return x / norm(x)[..., None]


def norm(x: Float[Tensor, "... rank"]) -> Float[Tensor, "..."]:
    """Euclidean norm over the last axis, its gradient finite at zero (where it returns about 1e-12)."""
    return (x.square().sum(-1) + 1e-24).sqrt()
