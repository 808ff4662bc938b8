"""A method: loss terms with weights, a transform, directions, and an optional edit of gradients."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from innerpo.config.method import MethodConfig
from innerpo.data.batching.batch import TokenBatch
from innerpo.data.batching.row_plan import Layout
from innerpo.errors import UserError
from innerpo.methods.directions.clusters import cluster_numbers
from innerpo.methods.directions.direction import direction_of
from innerpo.methods.directions.estimate import estimate_directions
from innerpo.methods.directions.nuisance import nuisance_of
from innerpo.methods.gradients.edit import GradientEdit
from innerpo.methods.inner_reward import InnerReward
from innerpo.methods.notes.notes import NoteInputs, PairNotes
from innerpo.methods.records import CompanionOutputs, Directions, PairOutputs, Term, TermInputs, log_ratio_margin
from innerpo.methods.subspaces.subspace import Kind, Subspace, SubspaceInputs, fit_subspace
from innerpo.methods.terms.inner import margin_of
from innerpo.methods.transforms.transform import IDENTITY, FitInputs, Transform
from innerpo.model.ablation import Ablation, ablated
from innerpo.model.forward.outputs import StateRequest
from innerpo.model.forward.sites import RESIDUAL
from innerpo.model.inoculation import inoculated
from innerpo.model.reference import Reference
from innerpo.model.steering import SteeringVector
from innerpo.registry import GRADIENTS, OFFSETS, SUBSPACES, TERMS, TRANSFORMS, WEIGHTINGS, resolve


@dataclass(frozen=True)
class LossOutput:
    """Per pair: the loss, each term's unweighted value by name, metrics by name, and the pair's weight (1 for None).

    Metrics and weights have no gradient.
    """

    per_pair: Float[Tensor, " pair"]
    terms: dict[str, Float[Tensor, " pair"]]
    metrics: dict[str, Float[Tensor, " pair"]]
    pair_weights: Float[Tensor, " pair"] | None = None


@dataclass(frozen=True)
class Method:
    """Loss terms, a transform and a gradient edit. A pure function: it holds no parameters of the policy.

    ``directions`` is None until ``fit_method`` and stays None where no term needs states; so does ``subspace``, the
    cue, where nothing works on one. ``gradient_edit`` is None until ``fit_gradients``.
    """

    config: MethodConfig
    term_weights: dict[str, float]
    terms: dict[str, Term]
    layers: tuple[int, ...]
    transform: Transform = IDENTITY
    directions: Directions | None = None
    gradient_edit: GradientEdit | None = None
    subspace: Subspace | None = None

    @property
    def request(self) -> StateRequest | None:
        """The hidden states that a forward pass must return for this method; None where log-probs are enough."""
        needs = {term.needs for term in self.terms.values()}
        if needs <= {"logps"}:
            return None
        return StateRequest(self.layers, self.config.pool, token_states="token_states" in needs, site=self.config.site)

    @property
    def fit_request(self) -> StateRequest | None:
        """The hidden states of the reference that the method is fitted on; None for a method without directions."""
        config = self.config
        if self.request is None and not (config.needs_notes or config.needs_cue):
            return None
        # Under an ablation training has a reference of its own, and needs no token states of the one without.
        keep = self.request is not None and self.request.token_states and config.ablate == 0.0
        return StateRequest(self.layers, config.pool, token_states=keep, site=config.site)

    @property
    def ablation(self) -> Ablation | None:
        """What is taken out of the states of policy and reference while training; None: nothing."""
        if self.subspace is None or self.config.ablate == 0.0:
            return None
        return Ablation(self.layers, self.subspace.basis, self.config.ablate)

    @property
    def inoculation(self) -> SteeringVector | None:
        """v_l = rms_l sigma_l n_l; None: nothing is added.

        n_l is the cue's first direction, sigma_l the standard deviation of d along it (units: methods/steering.py).
        """
        if self.subspace is None or self.config.inoculate == 0.0:
            return None
        assert self.directions is not None
        assert self.directions.token_rms is not None
        size = self.directions.token_rms * self.subspace.scale
        return SteeringVector(self.layers, size[:, None] * self.subspace.basis[:, :, 0])

    @contextmanager
    def reference_while_training(self, model: Any) -> Iterator[None]:
        """Run a model as training runs the reference: under the ablation."""
        with ablated(model, self.ablation):
            yield

    @contextmanager
    def policy_while_training(self, model: Any, pairs: TokenBatch | None) -> Iterator[None]:
        """Run a model on a batch of pairs (None: of companions) as training runs the policy: ablated or inoculated."""
        vector = None if pairs is None else self.inoculation
        with ablated(model, self.ablation), inoculated(model, pairs, vector, self.config.inoculate):
            yield

    @property
    def companions(self) -> dict[str, StateRequest | None]:
        """The kinds of companions that training runs, each with the states that it must return (None: log-probs)."""
        found: dict[str, set[str]] = {}
        for term in self.terms.values():
            for kind, needs in term.companions.items():
                found.setdefault(kind, set()).add(needs)
        return {
            kind: None
            if needs <= {"logps"}
            else StateRequest(self.layers, token_states="token_states" in needs, site=self.config.site)
            for kind, needs in found.items()
        }

    @property
    def fits_on_mismatched(self) -> bool:
        """Whether directions or the cue are fitted on the pairs' responses behind other pairs' prompts too."""
        if self.fit_request is None:
            return False
        kind: Kind = resolve(SUBSPACES, self.config.cue, "method.cue")
        return direction_of(self.config).mismatched or (self.config.needs_cue and kind.mismatched)

    @property
    def hooks_inside_blocks(self) -> bool:
        """Whether training hooks modules inside decoder blocks (to read or edit); compiled code skips such hooks."""
        gradient, requests = self.config.gradient, (self.request, *self.companions.values())
        edits = gradient != "none" and resolve(GRADIENTS, gradient, "method.gradient").hooks_modules
        return edits or any(request is not None and request.site != RESIDUAL for request in requests)

    @property
    def inner_reward(self) -> InnerReward | None:
        """The fitted directions, which score responses; None before they are fitted or for a method without."""
        if self.directions is None:
            return None
        return InnerReward(self.layers, self.transform, self.directions, self.config.pool, self.config.site)

    def to(self, device: torch.device) -> "Method":
        """Return the method with its directions, its transform and its cue on a device."""
        directions = None if self.directions is None else self.directions.to(device)
        subspace = None if self.subspace is None else self.subspace.to(device)
        return replace(self, directions=directions, transform=self.transform.to(device), subspace=subspace)

    def loss(
        self,
        policy: PairOutputs,
        reference: PairOutputs,
        notes: PairNotes | None = None,
        companions: Mapping[str, CompanionOutputs] | None = None,
    ) -> LossOutput:
        """Return the weighted sum of the terms, times the pair's weight, and its parts, one value per pair."""
        companions = companions or {}
        inputs = TermInputs(
            policy, reference, self.directions, self.transform, self.config, notes, companions, self.subspace
        )
        values = {name: term.function(inputs) for name, term in self.terms.items()}
        per_pair: Any = sum(self.term_weights[name] * value for name, value in values.items())
        if notes is not None:
            per_pair = notes.weight * per_pair
        with torch.no_grad():
            metrics = _reward_metrics(policy, reference, self.config.beta)
            if self.directions is not None and policy.chosen_states is not None:
                metrics["inner_margin"] = margin_of(inputs)
            for kind, found in companions.items():
                if len(found.policy.logps) == 2 * len(per_pair):
                    metrics[f"companion_margin/{kind}"] = found.margin
        return LossOutput(per_pair, values, metrics, None if notes is None else notes.weight)


def _reward_metrics(policy: PairOutputs, reference: PairOutputs, beta: float) -> dict[str, Float[Tensor, " pair"]]:
    """Return what TRL's DPOTrainer logs, under its names.

    Rewards are beta (log pi - log ref), ``logps`` sums over a response's tokens, in nats, and ``mean_logps`` the same
    per token. An accuracy of equal rewards is 1/2.
    """
    chosen = beta * (policy.chosen_logps - reference.chosen_logps)
    rejected = beta * (policy.rejected_logps - reference.rejected_logps)
    log_ratio = log_ratio_margin(policy, reference)
    return {
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/margins": beta * log_ratio,
        "rewards/accuracies": (log_ratio.sign() + 1) / 2,
        "logps/chosen": policy.chosen_logps,
        "logps/rejected": policy.rejected_logps,
        "mean_logps/chosen": policy.chosen_logps / policy.chosen_n_tokens,
        "mean_logps/rejected": policy.rejected_logps / policy.rejected_n_tokens,
    }


def build_method(config: MethodConfig, layers: tuple[int, ...]) -> Method:
    """Return the method of a config that reads the given blocks, not yet fitted. Raises UserError without any term."""
    weights = config.term_weights()
    terms: dict[str, Term] = {name: resolve(TERMS, name, "loss term") for name in weights}
    if not terms:
        raise UserError("every term of the method has weight 0, so there is no loss")
    return Method(config, weights, terms, layers)


def fit_method(
    method: Method,
    reference: Reference,
    model: Any,
    seed: int,
    layout: Layout = "concatenated",
    pad_id: int = 0,
    mismatched: Reference | None = None,
) -> Method:
    """Fit transform and directions on the reference states of the training pairs; without need of them, do nothing.

    ``layout`` and ``pad_id`` are for transforms that run the model themselves. ``mismatched`` is the reference on the
    mismatched companions of the pairs, for a method that ``fits_on_mismatched``.
    """
    if method.fit_request is None:
        return method
    assert reference.pooled is not None
    assert reference.token_spread is not None
    fit = resolve(TRANSFORMS, method.config.transform, "transform")
    inputs = FitInputs(reference.pooled, method.layers, model, seed, tuple(reference.items), layout, pad_id)
    transform = fit(inputs, method.config)
    x = note_inputs(replace(method, transform=transform), reference, seed, mismatched)
    directions = estimate_directions(x.d, reference.token_spread, method.config, seed, x.nuisance, x.clusters, x.d_mis)
    return replace(
        method,
        transform=transform,
        directions=replace(directions, token_rms=reference.token_rms),
        subspace=_fit_cue(method.config, reference, seed, mismatched) if method.config.needs_cue else None,
    )


def _fit_cue(config: MethodConfig, reference: Reference, seed: int, mismatched: Reference | None) -> Subspace:
    """Fit the cue on the reference's differences before any transform: it is a subspace of the residual stream."""
    inputs = SubspaceInputs(
        d=_differences(IDENTITY, reference).double(),
        regressors=nuisance_of(("length", "logprob"), reference.logps, reference.n_tokens),
        rank=config.cue_rank,
        generator=torch.Generator(),
        d_mis=None if mismatched is None else _differences(IDENTITY, mismatched).double(),
    )
    return fit_subspace(inputs, config, seed)


def note_inputs(method: Method, reference: Reference, seed: int, mismatched: Reference | None = None) -> NoteInputs:
    """Return what directions and notes are fitted on: the reference's differences after the method's transform."""
    removed, log_tokens = method.config.remove, reference.n_tokens.double().log()
    return NoteInputs(
        d=_differences(method.transform, reference),
        clusters=cluster_numbers(reference.items),
        length=log_tokens[0::2] - log_tokens[1::2],
        nuisance=nuisance_of(removed, reference.logps, reference.n_tokens) if removed else None,
        method=method.config,
        seed=seed,
        d_mis=None if mismatched is None else _differences(method.transform, mismatched),
    )


def _differences(transform: Transform, reference: Reference) -> Float[Tensor, "layer pair rank"]:
    assert reference.pooled is not None
    states = transform(reference.pooled)
    return states[:, 0::2] - states[:, 1::2]


def fit_notes(method: Method, reference: Reference, seed: int, mismatched: Reference | None = None) -> PairNotes | None:
    """Return the offsets and weights of the training pairs; None for a method without. Weights have the mean 1."""
    config = method.config
    if not config.needs_notes:
        return None
    x = note_inputs(method, reference, seed, mismatched)
    offset, weight = torch.zeros(x.d.shape[1]), torch.ones(x.d.shape[1])
    if config.output == "residual":
        offset = resolve(OFFSETS, config.offset, "method.offset")(x).float()
    if config.reweight != "none":
        weight = resolve(WEIGHTINGS, config.reweight, "method.reweight")(x).float()
    return PairNotes(offset, weight / weight.mean())
