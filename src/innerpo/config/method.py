"""What a method is: its records, as config.py has those of a run, and the methods that have a name."""

import dataclasses
import math
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from tyro.conf import arg

from innerpo.errors import UserError, near_matches
from innerpo.registry import GRADIENTS, METHODS, TERMS, TRANSFORMS

# A name of a table that others may add to: no Literal, but the choices are shown and checked.
TransformName = Annotated[str, arg(metavar="{" + ",".join(TRANSFORMS) + "}")]
GradientName = Annotated[str, arg(metavar="{" + ",".join(["none", *GRADIENTS]) + "}")]


@dataclass(frozen=True)
class TransformConfig:
    """Options of the transform named by ``method.transform``; each says which transforms read it (docs/methods.md)."""

    rank: float = 0.25
    """Rows of ether, ortho, hra, svd and random: a fraction of the hidden size (0 < rank < 1) or a whole number."""
    supr_mode: Literal["null", "suppressed"] = "null"
    """supr: drop what the unembedding reads most (null), or keep what blocks push down in it (suppressed)."""
    supr_k: float = 0.25
    """supr: right-singular directions dropped (null) or kept (suppressed): a fraction or a whole number, as rank."""
    svd_end: Literal["top", "bottom"] = "top"
    """svd: the directions in which the pairs' differences are largest, or smallest."""
    reflections: int = 8
    """ether, hra: Householder reflections multiplied together (those of ether are block-diagonal)."""
    ether_blocks: int = 4
    """ether: blocks on each reflection's diagonal; must divide the hidden size."""
    fit_steps: int = 100
    """ether, ortho, hra: most steps of the probe that learns the rows; it stops early on held-back pairs."""
    fit_lr: float = 0.02
    """ether, ortho, hra: step size of that probe, about radians of rotation per step."""

    def __post_init__(self) -> None:
        check_finite(self, "method.subspace")
        for name in ("rank", "supr_k"):
            value = getattr(self, name)
            if value <= 0 or (value >= 1 and not float(value).is_integer()):
                raise UserError(
                    f"method.subspace.{name} must be a fraction of the hidden size (0 < {name} < 1) or a whole number "
                    f"of directions, got {value:g}"
                )
        for name in ("reflections", "ether_blocks"):
            if getattr(self, name) < 1:
                raise UserError(f"method.subspace.{name} must be at least 1, got {getattr(self, name)}")
        if self.fit_steps < 0:
            raise UserError(f"method.subspace.fit_steps must not be negative, got {self.fit_steps}")
        if self.fit_lr <= 0:
            raise UserError(f"method.subspace.fit_lr must be above 0, got {self.fit_lr:g}")


@dataclass(frozen=True)
class MethodConfig:
    """How preferences are taught. ``innerpo`` = output + alpha * inner + gamma * drift (docs/methods.md)."""

    name: str = "innerpo"
    """Name of the method (set by the subcommand)."""
    transform: TransformName = "none"
    """Linear map with orthonormal rows, applied to pooled states before directions and margins."""
    subspace: TransformConfig = field(default_factory=TransformConfig)
    """Options of the transform."""
    layers: str = "0.4,0.6,0.8"
    """Decoder blocks read: indices (3), negative (-2,-1), fractions (0.5), ranges (range(.3,-1), range(3,10,2))."""
    site: str = "residual"
    """Read: residual, attn_out, mlp_out, o_proj_in, down_proj_in, a module's name (NAME_in: its input), re:REGEX."""
    pool: Literal["mean", "last", "first_divergence"] = "mean"
    """Completion tokens averaged: all, the last (EOS), or those from the first in which the responses differ."""
    direction: Literal["shared", "pair", "mix", "lda", "random"] = "shared"
    """Preference direction: mean over training pairs, the pair's own, a mix, whitened mean, or a seeded random one."""
    mix: float = 0.5
    """Weight of the pair's own direction in direction=mix (0 = shared, 1 = pair)."""
    lda_ridge: float = 0.1
    """Ridge of direction=lda, as a fraction of the differences' mean variance per dimension."""
    remove: tuple[Literal["length", "logprob"], ...] = ()
    """Regressed out of shared, mix and lda directions: difference in log token count, in mean log-probability."""
    layer_weights: Literal["accuracy", "uniform"] = "accuracy"
    """Layers weighted by the leave-one-out accuracy of their direction above chance, or all alike."""
    output: Literal["dpo", "ipo", "simpo", "none"] = "dpo"
    """Loss on output log-probabilities."""
    beta: float = 0.1
    """Logits per nat of DPO's margin or (simpo) per nat a token; in ipo the margin sought is 1 / (2 beta)."""
    simpo_gamma: float = 1.0
    """SimPO's target margin, in logits."""
    inner: Literal["hinge", "logistic", "linear"] = "hinge"
    """Form of the inner term on the margin m: relu(tau - m)^2, softplus(-beta_h m), or -min(m, tau)."""
    alpha: float = 0.3
    """Weight of the inner term."""
    tau: float = 1.0
    """Margin (standard deviations of the reference's own) at which hinge and linear stop pulling."""
    beta_h: float = 1.0
    """Slope of the logistic inner term."""
    gamma: float = 0.1
    """Weight of the drift term: movement of states orthogonal to the preference direction."""
    angle: float = 0.0
    """Weight of 1 - cos(policy difference, direction)."""
    separation: float = 0.0
    """Weight of |policy difference| / |reference difference| - 1, which sees no label (a control)."""
    coherence: float = 0.0
    """Weight of the rise of the chosen response's loss above the reference, nats per token."""
    sft: float = 0.0
    """Weight of the chosen response's loss, nats per token."""
    reroute: float = 0.0
    """Weight of pulling the rejected response's state to where the reference has the chosen one's."""
    retain: float = 0.0
    """Weight of holding the chosen response's state where the reference has it."""
    gradient: GradientName = "none"
    """Edit of gradients: projected on preference directions after backward (projgrad) or on the way (projbp)."""
    kappa: float = 0.1
    """What is kept, in projgrad and projbp, of the gradient across the direction (1 = no edit)."""
    frozen: bool = False
    """Train nothing: the policy is the base model, whose frozen direction scores (probe)."""
    extra: dict[str, float] = field(default_factory=dict)
    """Weights of terms added from outside the package: name weight ..."""

    def __post_init__(self) -> None:
        check_finite(self, "method")
        if self.transform not in TRANSFORMS:
            raise UserError(f"unknown transform {self.transform!r}{near_matches(self.transform, TRANSFORMS)}")
        if self.transform == "supr" and self.site != "residual":
            raise UserError(f"supr asks what the unembedding reads of the residual stream, not of {self.site!r}")
        on_states = {"inner", "drift", "angle", "separation", "reroute", "retain"} & set(self.term_weights())
        if self.name == "dpo" and on_states:
            raise UserError(f"dpo has no terms on hidden states, got {', '.join(sorted(on_states))}; use innerpo")
        if self.gradient != "none" and self.gradient not in GRADIENTS:
            raise UserError(f"unknown method.gradient {self.gradient!r}{near_matches(self.gradient, GRADIENTS)}")
        if self.gradient != "none" and self.direction not in ("shared", "random"):
            raise UserError(f"{self.gradient} knows direction shared and random, not {self.direction}")
        if self.remove and (self.direction in ("pair", "random") or self.gradient != "none"):
            what = self.gradient if self.gradient != "none" else f"direction {self.direction}"
            raise UserError(f"method.remove changes shared, mix and lda directions of states, not {what}")
        if self.frozen and not self.reads_states:
            raise UserError("method.frozen scores along directions of states; give alpha a weight (see probe)")
        if self.lda_ridge <= 0.0:
            raise UserError(f"method.lda_ridge must be above 0, got {self.lda_ridge}")
        if self.output != "none" and self.beta <= 0.0:
            raise UserError(f"method.beta must be above 0 with output={self.output}, got {self.beta}")

    def term_weights(self) -> dict[str, float]:
        """Return the weight of every term that is switched on, in a fixed order."""
        named = {
            "output": 0.0 if self.output == "none" else 1.0,
            "inner": self.alpha,
            "drift": self.gamma,
            "angle": self.angle,
            "separation": self.separation,
            "coherence": self.coherence,
            "sft": self.sft,
            "reroute": self.reroute,
            "retain": self.retain,
        }
        unknown = set(self.extra) - set(TERMS)
        if unknown:
            raise UserError(f"method.extra names unknown terms {sorted(unknown)}; known: {', '.join(TERMS)}")
        return {k: v for k, v in (named | self.extra).items() if v != 0.0}

    @property
    def reads_states(self) -> bool:
        """Whether any term that is switched on may look at hidden states."""
        return bool(set(self.term_weights()) - {"output", "coherence", "sft"})


def default_method(name: str) -> MethodConfig:
    """Return the defaults of a method of the table, or of NAME-TRANSFORM: that method with that transform."""
    if name in METHODS:
        return MethodConfig(name=name, **{key: value for key, value in METHODS[name].items() if key != "data"})
    for transform in TRANSFORMS:
        plain = name.removesuffix(f"-{transform}")
        if plain in METHODS and (found := default_method(plain)).reads_states:
            return replace(found, transform=transform)
    raise UserError(f"unknown method {name!r}{near_matches(name, method_names())}")


def method_names() -> list[str]:
    """Return every name that ``default_method`` knows: METHODS, then NAME-TRANSFORM for methods that read states."""
    reading = [name for name in METHODS if default_method(name).reads_states]
    return [*METHODS, *(f"{name}-{transform}" for name in reading for transform in TRANSFORMS)]


def check_finite(record: Any, prefix: str) -> None:
    """Refuse nan and inf in any number of a record, naming the field."""
    for f in dataclasses.fields(record):
        value = getattr(record, f.name)
        values = value.values() if isinstance(value, dict) else [value]
        for v in values:
            if isinstance(v, float) and not math.isfinite(v):
                raise UserError(f"{prefix}.{f.name} must be a finite number, got {v}")
