"""Records that loss terms read: outputs of policy and reference on pairs, and the preference directions.

Axis names: layer (blocks that are read), pair, rank (dimensions after the transform), hidden (dimensions before it),
token (completion tokens of all responses of the batch, packed). Log-probabilities are in nats.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from innerpo.config.method import MethodConfig
from innerpo.data.batching.batch import TokenBatch
from innerpo.methods.notes.notes import PairNotes
from innerpo.methods.subspaces.subspace import Subspace
from innerpo.methods.transforms.transform import Transform
from innerpo.model.forward.outputs import SequenceOutputs

Needs = Literal["logps", "states", "token_states"]
"""What a term reads: log-probabilities alone; pooled states and directions too; the state of every token too."""


@dataclass(frozen=True)
class PairOutputs:
    """Outputs of one model on a batch of pairs.

    ``logps`` are sums over a response's completion tokens, in nats, and ``n_tokens`` their number. ``states`` are
    s_l(y), pooled and transformed. ``token_states`` are the RMS-normalised states u of every completion token, not
    transformed; ``sequence`` is the response of each token: 2i is pair i's chosen response, 2i + 1 its rejected one.
    ``shared_logps`` are sums over a response's first ``min(|y_c|, |y_r|)`` tokens, a length that both responses have;
    None where log-probabilities of single tokens are not known. Fields for states are None where no term needs them.
    """

    chosen_logps: Float[Tensor, " pair"]
    rejected_logps: Float[Tensor, " pair"]
    chosen_n_tokens: Int[Tensor, " pair"]
    rejected_n_tokens: Int[Tensor, " pair"]
    chosen_states: Float[Tensor, "layer pair rank"] | None = None
    rejected_states: Float[Tensor, "layer pair rank"] | None = None
    token_states: Float[Tensor, "layer token hidden"] | None = None
    sequence: Int[Tensor, " token"] | None = None
    chosen_shared_logps: Float[Tensor, " pair"] | None = None
    rejected_shared_logps: Float[Tensor, " pair"] | None = None

    @classmethod
    def of(cls, outputs: SequenceOutputs, batch: TokenBatch, transform: Transform) -> "PairOutputs":
        """Split a batch's responses into chosen and rejected, and transform the pooled states."""
        pooled = None if outputs.pooled is None else transform(outputs.pooled)
        shared = None if outputs.token_logps is None else shared_logps(outputs.token_logps, batch)
        return cls(
            chosen_logps=outputs.logps[0::2],
            rejected_logps=outputs.logps[1::2],
            chosen_n_tokens=outputs.n_tokens[0::2],
            rejected_n_tokens=outputs.n_tokens[1::2],
            chosen_states=None if pooled is None else pooled[:, 0::2],
            rejected_states=None if pooled is None else pooled[:, 1::2],
            token_states=outputs.token_states,
            sequence=batch.sequence,
            chosen_shared_logps=None if shared is None else shared[0::2],
            rejected_shared_logps=None if shared is None else shared[1::2],
        )

    @property
    def difference(self) -> Float[Tensor, "layer pair rank"]:
        """The state difference s_l(y_c) - s_l(y_r): d_l of the reference, delta_l of the policy."""
        assert self.chosen_states is not None
        assert self.rejected_states is not None
        return self.chosen_states - self.rejected_states


def shared_logps(token_logps: Float[Tensor, " token"], batch: TokenBatch) -> Float[Tensor, " seq"]:
    """Return each response's sum over its first tokens, as many as its pair's shorter response has, in nats."""
    shorter = torch.minimum(batch.n_tokens[0::2], batch.n_tokens[1::2])
    kept = batch.offset < shorter[batch.sequence // 2]
    sums = torch.zeros_like(batch.n_tokens, dtype=token_logps.dtype)
    return sums.index_add(0, batch.sequence, token_logps * kept)


def log_ratio_margin(policy: PairOutputs, reference: PairOutputs) -> Float[Tensor, " pair"]:
    """Return p = (log pi_c - log pi_r) - (log ref_c - log ref_r), in nats, sums over completion tokens."""
    return (policy.chosen_logps - policy.rejected_logps) - (reference.chosen_logps - reference.rejected_logps)


@dataclass(frozen=True)
class Directions:
    """Fitted preference directions, from the reference model alone.

    Per layer: ``w`` is the unit direction w_l; ``scale`` is sigma_l, the standard deviation of the reference's
    differences along it; ``layer_weights`` are a_l and sum to 1; ``accuracy`` is the fraction of training pairs whose
    difference has a positive projection on the direction fitted without their prompt; ``token_spread`` is
    E |u - mean u|^2 over completion tokens, the unit of drift; ``token_rms`` is the mean root mean square of a token's
    state before normalisation (None where it was not measured). ``own`` is the share of a pair's own difference in its
    direction, 0 to 1.
    """

    w: Float[Tensor, "layer rank"]
    scale: Float[Tensor, " layer"]
    layer_weights: Float[Tensor, " layer"]
    accuracy: Float[Tensor, " layer"]
    token_spread: Float[Tensor, " layer"]
    own: float = 0.0
    token_rms: Float[Tensor, " layer"] | None = None

    def of_pairs(self, d: Float[Tensor, "layer pair rank"]) -> Float[Tensor, "layer pair rank"]:
        """Return the direction of each pair, w_{l,i} = unit((1 - own) w_l + own unit(d_{l,i}))."""
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
class CompanionOutputs:
    """Outputs of policy and reference on the companions of a batch's pairs: one item a pair, in the pairs' order.

    An item has two responses (data/companions.py) or is one unlabelled text (data/texts.py). ``sequence`` is the
    response of each token. ``token_spread`` is E |u - mean u|^2 of the reference over all companions of the training
    pairs, None where no states are read.
    """

    policy: SequenceOutputs
    reference: SequenceOutputs
    sequence: Int[Tensor, " token"]
    token_spread: Float[Tensor, " layer"] | None = None

    @property
    def margin(self) -> Float[Tensor, " pair"]:
        """The log-ratio margin of the first response over the second, in nats, sums over completion tokens."""
        log_ratio = self.policy.logps - self.reference.logps
        return log_ratio[0::2] - log_ratio[1::2]

    def mean_over_tokens(self, values: Float[Tensor, " token"]) -> Float[Tensor, " seq"]:
        """Return the mean of something over the completion tokens of each response."""
        total = torch.zeros(len(self.policy.n_tokens), dtype=values.dtype, device=values.device)
        return total.index_add(0, self.sequence, values) / self.policy.n_tokens


@dataclass(frozen=True)
class TermInputs:
    """Everything a loss term or an output form can read. ``directions`` is None where every term needs only logps.

    ``notes`` are the offsets and weights of the batch's pairs; None for a method without, and in evaluation.
    ``companions`` holds, by kind, the outputs on the companions that the method's terms declare.
    ``subspace`` is the cue; None for a method without.
    """

    policy: PairOutputs
    reference: PairOutputs
    directions: Directions | None
    transform: Transform
    method: MethodConfig
    notes: PairNotes | None = None
    companions: Mapping[str, CompanionOutputs] = field(default_factory=dict)
    subspace: Subspace | None = None

    @property
    def w(self) -> Float[Tensor, "layer pair rank"]:
        """The preference direction of each pair, unit norm."""
        assert self.directions is not None
        return self.directions.of_pairs(self.reference.difference)


OutputForm = Callable[[TermInputs], Float[Tensor, " pair"]]
"""A form of the output term: a pure function of policy, reference and config to one loss per pair."""


@dataclass(frozen=True)
class Term:
    """A named part of a loss: a pure function of TermInputs to one value per pair.

    ``needs`` is what the function reads of policy and reference. ``companions`` is what it reads of each kind of
    companion of the pairs ("mismatch", ...; data/companions.py), none by default. ``sees_labels`` declares whether
    swapping chosen and rejected, with the directions held fixed, changes the term: always, or as a function of the
    config.
    The doctor checks the declaration; None is reported and not checked.
    """

    function: Callable[[TermInputs], Float[Tensor, " pair"]]
    needs: Needs
    sees_labels: Callable[[MethodConfig], bool] | bool | None = None
    companions: Mapping[str, Needs] = field(default_factory=dict)

    def label_expectation(self, method: MethodConfig) -> bool | None:
        """Whether the term is declared to see labels in this method; None where nothing is declared."""
        return self.sees_labels(method) if callable(self.sees_labels) else self.sees_labels


def unit(x: Float[Tensor, "... rank"]) -> Float[Tensor, "... rank"]:
    """Return x / |x|; zero stays zero, with a finite gradient."""
    return x / norm(x)[..., None]


def norm(x: Float[Tensor, "... rank"]) -> Float[Tensor, "..."]:
    """Return the Euclidean norm over the last axis, with a finite gradient at zero (where the value is 1e-12)."""
    return (x.square().sum(-1) + 1e-24).sqrt()
