"""The config of a method: loss terms with weights, transform, direction, gradient edit; and the methods with names."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any, Literal

from tyro.conf import arg

from innerpo.config.checks import check_finite
from innerpo.config.transform import TransformConfig
from innerpo.errors import UserError, near_matches
from innerpo.registry import (
    DIRECTIONS,
    GRADIENTS,
    METHODS,
    OFFSETS,
    OUTPUTS,
    SUBSPACES,
    TERMS,
    TRANSFORMS,
    WEIGHTINGS,
    check_name,
    fact,
)


def _choices(names: Mapping[str, Any], *more: str) -> Any:
    """Show a table's names in help as the choices of a str field, to which a program may add its own."""
    return arg(metavar="{" + ",".join([*more, *names]) + "}")


MAX_CUE_RANK = 8
"""Most dimensions of a cue: beyond these, ablation takes away what a task is made of."""

PER_TOKEN = ("dpo_norm", "simpo", "ipo")
"""Output forms whose beta multiplies margins in nats per token."""

LEARNED = ("ether", "ortho", "hra")
"""Transforms that are fitted on the labels of the training pairs."""

OF_STATES = {"innerpo.of_states": True}
"""Metadata of an option that only matters where a method reads hidden states."""

TransformName = Annotated[str, _choices(TRANSFORMS)]
DirectionName = Annotated[str, _choices(DIRECTIONS)]
OutputName = Annotated[str, _choices(OUTPUTS, "none")]
OffsetName = Annotated[str, _choices(OFFSETS)]
WeightingName = Annotated[str, _choices(WEIGHTINGS, "none")]
SubspaceName = Annotated[str, _choices(SUBSPACES)]
GradientName = Annotated[str, _choices(GRADIENTS, "none")]


@dataclass(frozen=True)
class MethodConfig:
    """What is optimised. ``innerpo`` = output + alpha * inner + gamma * drift; a term with weight 0 is off."""

    name: str = "innerpo"
    """Name of the method (set by the subcommand)."""
    transform: TransformName = field(default="none", metadata=OF_STATES)
    """Linear map with orthonormal rows, applied to pooled states before directions and margins are computed."""
    subspace: TransformConfig = field(default_factory=TransformConfig, metadata=OF_STATES)
    """Options of the transform."""
    layers: str = field(default="0.4,0.6,0.8", metadata=OF_STATES)
    """Decoder blocks whose states are read: 3, negative (-1), fractions of depth (0.5), ranges (range(.3,-1))."""
    site: str = field(default="residual", metadata=OF_STATES)
    """Where in a block: residual, attn_out, mlp_out, o_proj_in, down_proj_in, a module (NAME, NAME_in), re:REGEX."""
    pool: Literal["mean", "last", "first_divergence"] = field(default="mean", metadata=OF_STATES)
    """Tokens averaged into a response's state: all, the last (EOS), or from the first at which responses differ."""
    direction: DirectionName = field(default="shared", metadata=OF_STATES)
    """Preference direction: mean difference (shared), pair, mix, lda, context (needs the prompt), artifact, random."""
    mix: float = field(default=0.5, metadata=OF_STATES)
    """Weight of the pair's own direction in direction=mix (0 = shared, 1 = pair)."""
    lda_ridge: float = field(default=0.1, metadata=OF_STATES)
    """Ridge of direction=lda, as a fraction of the mean variance per dimension of the state differences."""
    remove: tuple[Literal["length", "logprob"], ...] = field(default=(), metadata=OF_STATES)
    """Regress out of shared, mix, lda: the pair's difference in log token count, in mean log-probability, or both."""
    layer_weights: Literal["accuracy", "uniform"] = field(default="accuracy", metadata=OF_STATES)
    """Weight of each layer: its direction's accuracy above chance on left-out prompts, or the same for all."""
    output: OutputName = "dpo"
    """Loss on output log-probabilities (the term "output", weight 1); none switches it off."""
    beta: float = 0.1
    """Logits per nat of log-ratio margin; dpo_norm, simpo: per nat/token. ipo: target 1/(2 beta) nats/token."""
    simpo_gamma: float = 1.0
    """simpo: target margin, in logits."""
    rdpo_alpha: float = 0.05
    """rdpo: logits that a token of length difference explains; 0 = dpo."""
    ld_alpha: float = 0.5
    """lddpo: weight of the tokens beyond the shorter response's length, 0 to 1 (1 = dpo)."""
    dpop_lambda: float = 50.0
    """dpop: weight of the fall of the chosen response's log-probability below the reference's; 0 = dpo."""
    label_smoothing: float = 0.1
    """cdpo, robust: share of pairs whose label is taken to be wrong, 0 to 0.5 (0 = dpo)."""
    offset: OffsetName = "probe"
    """residual: logits that count as explained: of the frozen probe (probe), or a control."""
    offset_weight: float = 1.0
    """residual: kappa, weight of the offset; 0 = dpo."""
    reweight: WeightingName = "none"
    """Raise the weight of pairs that the frozen probe gets wrong (probe), where lda agrees (disputed), or a control."""
    reweight_factor: float = 4.0
    """Weight of those pairs over that of the others."""
    cue: SubspaceName = "regressors"
    """ablate, soft_ablate, inoculate: what must not be learned, as directions of the residual stream (or a control)."""
    cue_rank: int = 2
    """Most dimensions of the cue, 1 to 8."""
    ablate: float = 0.0
    """Share of the cue taken out of the states of policy and reference while training (1 = all, 0 = off)."""
    soft_ablate: float = 0.0
    """Weight of the squared movement of the state difference within the cue."""
    inoculate: float = 0.0
    """Standard deviations of the cue added to chosen, taken from rejected states of the policy while training."""
    inner: Literal["hinge", "logistic", "linear"] = "hinge"
    """Inner term as a function of the margin m: max(0, tau - m)^2, softplus(-beta_h m), or -min(m, tau)."""
    alpha: float = 0.3
    """Weight of the inner term, the margin of hidden states along the preference direction."""
    tau: float = 1.0
    """Margin, in standard deviations of the reference, above which hinge and linear have no gradient."""
    beta_h: float = 1.0
    """Slope of inner=logistic, per standard deviation."""
    gamma: float = 0.1
    """Weight of the drift term: squared movement of token states orthogonal to the preference direction."""
    angle: float = 0.0
    """Weight of 1 - cos(policy's state difference, preference direction)."""
    separation: float = 0.0
    """Weight of |policy's difference| / |reference's difference| - 1; independent of the labels (a control)."""
    coherence: float = 0.0
    """Weight of the increase of the chosen response's loss over the reference, in nats per token."""
    sft: float = 0.0
    """Weight of the negative log-likelihood of the chosen response, in nats per token."""
    reroute: float = 0.0
    """Weight of the squared distance of the rejected response's state from the reference's chosen state."""
    retain: float = 0.0
    """Weight of the squared distance of the chosen response's state from the reference's chosen state."""
    mismatch: float = 0.0
    """Weight of (beta p)^2, p the log-ratio margin of the pair's responses behind another pair's prompt."""
    foreign: float = 0.0
    """Weight of DPO's loss on the pair's chosen response against another pair's chosen response."""
    ties: float = 0.0
    """Weight of (beta p)^2 for two responses of two other random pairs behind the pair's prompt (a control)."""
    anchor_drift: float = 0.0
    """Weight of the squared movement of token states on unlabelled texts, in units of the texts' own spread."""
    anchor_kl: float = 0.0
    """Weight of the divergence from the reference on tokens of unlabelled texts, in nats per token."""
    anchor_data: str = "sentences"
    """anchor_drift, anchor_kl: a data set, a .txt or .md file, self (the training texts) or sentences (generated)."""
    gradient: GradientName = "none"
    """Project gradients on preference directions: of weights (projgrad) or of module outputs (projbp)."""
    kappa: float = 0.1
    """projgrad, projbp: factor on the gradient's component orthogonal to the direction (1 = no edit)."""
    frozen: bool = False
    """Train nothing: the base model's own preference direction scores responses (method probe)."""
    extra: dict[str, float] = field(default_factory=dict)
    """Weights of further registered terms, by name: name weight name weight ..."""

    def __post_init__(self) -> None:
        check_finite(self, "method")
        check_name(TRANSFORMS, self.transform, "method.transform")
        check_name(DIRECTIONS, self.direction, "method.direction")
        for value, table, kind in (
            (self.output, OUTPUTS, "method.output"),
            (self.gradient, GRADIENTS, "method.gradient"),
        ):
            if value != "none":
                check_name(table, value, kind)
        check_name(OFFSETS, self.offset, "method.offset")
        if self.reweight != "none":
            check_name(WEIGHTINGS, self.reweight, "method.reweight")
        if self.reweight_factor <= 0.0:
            raise UserError(f"method.reweight_factor must be above 0, got {self.reweight_factor:g}")
        self._check_cue()
        if self.transform == "supr" and self.site != "residual":
            raise UserError(
                f"method.transform=supr needs method.site=residual (it uses the unembedding), not {self.site}"
            )
        on_states = self.state_terms
        if self.name == "dpo" and self.reads_states:
            what = ", ".join(on_states) or ("offsets or weights of pairs" if self.needs_notes else "a cue")
            raise UserError(f"dpo has no terms on hidden states, got {what}; use innerpo")
        if self.gradient != "none" and not fact(DIRECTIONS, self.direction, "gradients", "method.direction"):
            known = [name for name in DIRECTIONS if fact(DIRECTIONS, name, "gradients", "method.direction")]
            raise UserError(
                f"method.gradient={self.gradient} needs method.direction {' or '.join(known)}, not {self.direction}"
            )
        if self.remove and (self.gradient != "none" or not fact(DIRECTIONS, self.direction, "remove", "direction")):
            known = [name for name in DIRECTIONS if fact(DIRECTIONS, name, "remove", "method.direction")]
            what = self.gradient if self.gradient != "none" else f"direction {self.direction}"
            raise UserError(f"method.remove applies to the directions {', '.join(known)}, not to {what}")
        if self.frozen and not on_states:
            raise UserError(
                "method.frozen scores along a preference direction, so a term on hidden states needs a weight, "
                "such as method.alpha"
            )
        if not self.anchor_data.strip():
            raise UserError("method.anchor_data must name a data set, a .txt or .md file, self or sentences")
        if not 0.0 <= self.mix <= 1.0:
            raise UserError(f"method.mix must be from 0 (shared) to 1 (pair), got {self.mix}")
        if self.lda_ridge <= 0.0:
            raise UserError(f"method.lda_ridge must be above 0, got {self.lda_ridge}")
        if self.output != "none" and self.beta <= 0.0:
            raise UserError(f"method.beta must be above 0 with output={self.output}, got {self.beta}")
        self._check_output_options()

    def check_trained(self) -> None:
        """Raise UserError for what is not trained (again); runs of older releases that were are still read.

        The probe of notes must be fitted without the pairs that it judges, and margins in nats need a beta in nats.
        """
        if self.output in PER_TOKEN and (on := [t for t in ("mismatch", "foreign", "ties") if getattr(self, t) != 0.0]):
            raise UserError(
                f"method.{on[0]} multiplies margins in nats by method.beta, which with output={self.output} is meant "
                "for nats per token; use an output form of whole log-probabilities, such as dpo"
            )
        if self.needs_notes and self.transform in LEARNED:
            raise UserError(
                f"method.transform={self.transform} learns from the labels of all pairs, so offsets and weights of "
                f"pairs would not be cross-fitted; use one of {', '.join(t for t in TRANSFORMS if t not in LEARNED)}"
            )

    def _check_output_options(self) -> None:
        """Raise UserError for an option of an output form that is out of its range."""
        if not 0.0 <= self.label_smoothing < 0.5:
            raise UserError(f"method.label_smoothing must be at least 0 and below 0.5, got {self.label_smoothing:g}")
        if not 0.0 <= self.ld_alpha <= 1.0:
            raise UserError(f"method.ld_alpha must be from 0 to 1, got {self.ld_alpha:g}")
        for name in ("rdpo_alpha", "dpop_lambda"):
            if getattr(self, name) < 0.0:
                raise UserError(f"method.{name} must not be negative, got {getattr(self, name):g}")

    def _check_cue(self) -> None:
        check_name(SUBSPACES, self.cue, "method.cue")
        if not 1 <= self.cue_rank <= MAX_CUE_RANK:
            raise UserError(f"method.cue_rank must be 1 to {MAX_CUE_RANK}, got {self.cue_rank}")
        if not 0.0 <= self.ablate <= 1.0:
            raise UserError(f"method.ablate must be a share, 0 to 1, got {self.ablate:g}")
        if self.ablate != 0.0 and (self.soft_ablate != 0.0 or self.inoculate != 0.0):
            other = "soft_ablate" if self.soft_ablate != 0.0 else "inoculate"
            raise UserError(f"method.ablate takes out the cue on which method.{other} works; use one of the two")
        if self.needs_cue and self.site != "residual":
            raise UserError(
                f"method.cue is a subspace of the residual stream; it needs method.site=residual, not {self.site}"
            )

    def term_weights(self) -> dict[str, float]:
        """Return the weight of every term that is switched on, in a fixed order.

        Raises UserError where ``extra`` names a term that is not registered.
        """
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
            "soft_ablate": self.soft_ablate,
            "mismatch": self.mismatch,
            "foreign": self.foreign,
            "ties": self.ties,
            "anchor_drift": self.anchor_drift,
            "anchor_kl": self.anchor_kl,
        }
        unknown = set(self.extra) - set(TERMS)
        if unknown:
            raise UserError(f"method.extra names unknown terms {sorted(unknown)}; known: {', '.join(TERMS)}")
        return {k: v for k, v in (named | self.extra).items() if v != 0.0}

    @property
    def state_terms(self) -> list[str]:
        """The terms that are switched on and need hidden states."""
        return [name for name in self.term_weights() if fact(TERMS, name, "needs", "loss term") != "logps"]

    @property
    def reads_states(self) -> bool:
        """Whether terms that are switched on, notes on pairs or a cue need hidden states, and therefore directions."""
        return bool(self.state_terms) or self.needs_notes or self.needs_cue

    @property
    def unread(self) -> list[str]:
        """Options of hidden states that are off their defaults though nothing reads hidden states or directions."""
        if self.reads_states or self.gradient != "none":
            return []
        default = defaults_like(self.name)
        options = [f.name for f in fields(self) if f.metadata.items() >= OF_STATES.items()]
        if self.anchor_drift != 0.0:  # it reads the states of texts beside the pairs, at those places
            options = [name for name in options if name not in ("layers", "site")]
        return [name for name in options if getattr(self, name) != getattr(default, name)]

    @property
    def needs_cue(self) -> bool:
        """Whether something works on the cue, which is then fitted on the reference's states before training."""
        return self.ablate != 0.0 or self.inoculate != 0.0 or "soft_ablate" in self.term_weights()

    @property
    def needs_notes(self) -> bool:
        """Whether pairs have offsets or weights, which the frozen probe gives them before training."""
        return self.output == "residual" or self.reweight != "none"


def default_method(name: str) -> MethodConfig:
    """Return the defaults of a method of the table, or of NAME-TRANSFORM: that method with that transform.

    Raises UserError, with near matches, for any other name.
    """
    if name in METHODS:
        given = {key: value for key, value in METHODS[name].items() if key not in ("about", "data")}
        return MethodConfig(name=name, **given)
    for transform in TRANSFORMS:
        plain = name.removesuffix(f"-{transform}")
        if plain in METHODS and (found := default_method(plain)).reads_states:
            return replace(found, transform=transform)
    raise UserError(f"unknown method {name!r}{near_matches(name, method_names())}")


def defaults_like(name: str) -> MethodConfig:
    """Return the defaults of a method of the table; those of the record for a name that a program has made up."""
    return default_method(name) if name in METHODS else MethodConfig()


def method_names() -> list[str]:
    """Return every name that ``default_method`` knows: METHODS, then NAME-TRANSFORM for methods that read states."""
    reading = [name for name in METHODS if default_method(name).reads_states]
    notes = {name for name in reading if default_method(name).needs_notes}
    pairs = ((name, t) for name in reading for t in TRANSFORMS if name not in notes or t not in LEARNED)
    return [*METHODS, *(f"{name}-{transform}" for name, transform in pairs)]
