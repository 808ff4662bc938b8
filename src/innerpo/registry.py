"""The one registry: every name that a config can contain, and where the code behind it is.

An entry is a ``module:attribute`` string, imported when it is used, so that a help page imports neither torch nor
transformers. A program adds its own by putting the object itself into a table: ``TERMS["mine"] = my_term``. A file of
the package is added by one line here. ``CONTRIBUTING.md`` shows both for every table.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from innerpo.errors import UserError, near_matches


@dataclass(frozen=True)
class Lazy:
    """A ``module:attribute`` string with facts about the object that a config must know without importing it.

    Each fact equals the object's attribute of that name (tests/test_extension.py checks it). An entry without facts
    works too; the object is then imported when a fact is needed.
    """

    where: str
    facts: Mapping[str, Any]


Entry = Any
"""A ``module:attribute`` string, a ``Lazy``, or the object itself (a Term, a function, ...)."""


def lazy(where: str, **facts: Any) -> Lazy:
    """Return a ``module:attribute`` entry with facts."""
    return Lazy(where, facts)


_OUTPUT_ONLY = {"alpha": 0.0, "gamma": 0.0}

# name -> "about", one sentence for --help; under "data", the DataConfig fields that differ from their defaults; all
# else, the MethodConfig fields that differ. NAME-TRANSFORM is a name too, for each method that reads states
# (innerpo.config.method.method_names lists them).
METHODS: dict[str, dict[str, Any]] = {
    "innerpo": {
        "about": "DPO plus a margin between hidden states along a preference direction and a penalty on other drift.",
    },
    "dpo": {
        **_OUTPUT_ONLY,
        "about": "Direct preference optimisation on output log-probabilities (Rafailov et al. 2023).",
    },
    "ipo": {
        **_OUTPUT_ONLY,
        "output": "ipo",
        "about": "Identity preference optimisation: the log-ratio margin meets a fixed target (Azar et al. 2023).",
    },
    "simpo": {
        **_OUTPUT_ONLY,
        "output": "simpo",
        "beta": 2.0,
        "about": "Simple preference optimisation: length-normalised margin without a reference (Meng et al. 2024).",
    },
    "dpo-norm": {
        **_OUTPUT_ONLY,
        "output": "dpo_norm",
        "beta": 5.0,
        "about": "Length-normalised DPO: log-ratios count per token (Lambert et al. 2024).",
    },
    "rdpo": {
        **_OUTPUT_ONLY,
        "output": "rdpo",
        "about": "R-DPO: DPO on what the difference in length does not explain (Park et al. 2024).",
    },
    "lddpo": {
        **_OUTPUT_ONLY,
        "output": "lddpo",
        "about": "LD-DPO: DPO with less weight on tokens beyond the shorter response's length (Liu et al. 2024).",
    },
    "dpop": {
        **_OUTPUT_ONLY,
        "output": "dpop",
        "about": "DPO-Positive: DPO with a penalty where the chosen response becomes less likely (Pal et al. 2024).",
    },
    "cdpo": {
        **_OUTPUT_ONLY,
        "output": "cdpo",
        "about": "Conservative DPO: smoothed labels, for pairs of which some have a wrong one (Mitchell 2023).",
    },
    "robust-dpo": {
        **_OUTPUT_ONLY,
        "output": "robust",
        "about": "Robust DPO: DPO's loss without the bias of a known share of wrong labels (Chowdhury et al. 2024).",
    },
    "hinge": {
        **_OUTPUT_ONLY,
        "output": "hinge",
        "about": "SLiC's hinge on DPO's log-ratio margin (Liu et al. 2023, after Zhao et al. 2023).",
    },
    "apo-zero": {
        **_OUTPUT_ONLY,
        "output": "apo_zero",
        "about": "Anchored preference optimisation: chosen more likely, rejected less (D'Oosterlinck et al. 2024).",
    },
    "apo-down": {
        **_OUTPUT_ONLY,
        "output": "apo_down",
        "about": "Anchored preference optimisation: both less likely, rejected more so (D'Oosterlinck et al. 2024).",
    },
    "sft": {
        **_OUTPUT_ONLY,
        "output": "none",
        "sft": 1.0,
        "about": "Supervised fine-tuning on the chosen responses; rejected responses are ignored.",
    },
    "projgrad": {
        **_OUTPUT_ONLY,
        "gradient": "projgrad",
        "about": "DPO; weight gradients are projected on each module's preference direction before the optimiser step.",
    },
    "projbp": {
        **_OUTPUT_ONLY,
        "gradient": "projbp",
        "about": "DPO; gradients are projected on each module's preference direction during the backward pass.",
    },
    "prefvec": {
        "direction": "pair",
        "inner": "linear",
        "angle": 0.1,
        "coherence": 1.0,
        "about": "DPO plus a linear margin along each pair's own state difference, with angle and coherence terms.",
    },
    "reroute": {
        **_OUTPUT_ONLY,
        "output": "none",
        "reroute": 1.0,
        "retain": 1.0,
        "about": "Moves rejected responses' states to the chosen ones' (after circuit breakers, Zou et al. 2024).",
    },
    "residual": {
        **_OUTPUT_ONLY,
        "output": "residual",
        "about": "DPO on what the frozen probe does not explain: its log-odds are added to each pair's logit.",
    },
    "residual-permuted": {
        **_OUTPUT_ONLY,
        "output": "residual",
        "offset": "permuted",
        "about": "Control: residual with the offsets in a random order of the pairs.",
    },
    "residual-length": {
        **_OUTPUT_ONLY,
        "output": "residual",
        "offset": "length",
        "about": "Control: residual with log-odds from the difference in length alone.",
    },
    "residual-reversed": {
        **_OUTPUT_ONLY,
        "output": "residual",
        "offset": "reversed",
        "about": "Control: residual with the probe's log-odds turned round, which must hurt.",
    },
    "reweight": {
        **_OUTPUT_ONLY,
        "reweight": "probe",
        "about": "DPO with more weight on the pairs that the frozen probe gets wrong (after Liu et al. 2021).",
    },
    "reweight-random-pairs": {
        **_OUTPUT_ONLY,
        "reweight": "random",
        "about": "Control: DPO with that weight on as many random pairs.",
    },
    "reweight-disputed": {
        **_OUTPUT_ONLY,
        "reweight": "disputed",
        "about": "Reweight where a second probe (lda) agrees with the label; less weight where both contradict it.",
    },
    "reweight-disputed-permuted": {
        **_OUTPUT_ONLY,
        "reweight": "disputed-random",
        "about": "Control: DPO with the weights of reweight-disputed in a random order of the pairs.",
    },
    "ablate": {
        **_OUTPUT_ONLY,
        "ablate": 1.0,
        "about": "DPO while a cue is taken out of the states of policy and reference (after Casademunt et al. 2025).",
    },
    "ablate-artifact": {
        **_OUTPUT_ONLY,
        "ablate": 1.0,
        "cue": "artifact",
        "about": "DPO while what tells responses apart behind any prompt is taken out of all states.",
    },
    "ablate-random-cue": {
        **_OUTPUT_ONLY,
        "ablate": 1.0,
        "cue": "random",
        "about": "Control: ablate with a random subspace of the top components, of the same rank.",
    },
    "ablate-top": {
        **_OUTPUT_ONLY,
        "ablate": 1.0,
        "cue": "top",
        "about": "Control: ablate with the top components of the state differences.",
    },
    "ablate-shared": {
        **_OUTPUT_ONLY,
        "ablate": 1.0,
        "cue": "shared",
        "about": "Control: ablate with the mean state difference, right feature and cue together.",
    },
    "soft-ablate": {
        **_OUTPUT_ONLY,
        "soft_ablate": 1.0,
        "about": "DPO plus a penalty on movement of the state difference within the cue only.",
    },
    "soft-ablate-random-cue": {
        **_OUTPUT_ONLY,
        "soft_ablate": 1.0,
        "cue": "random",
        "about": "Control: soft-ablate with a random subspace of the top components, of the same rank.",
    },
    "inoculate": {
        **_OUTPUT_ONLY,
        "inoculate": 1.0,
        "about": "DPO while the cue is added to chosen and taken from rejected states (after Chen et al. 2025).",
    },
    "inoculate-random-cue": {
        **_OUTPUT_ONLY,
        "inoculate": 1.0,
        "cue": "random",
        "about": "Control: inoculate along a random direction of the top components.",
    },
    "inoculate-reversed": {
        **_OUTPUT_ONLY,
        "inoculate": -1.0,
        "about": "Control: inoculate with the opposite sign, which must hurt.",
    },
    "context-direction": {
        "direction": "context",
        "about": "Innerpo along what tells chosen from rejected only behind their own prompt (after Liu et al. 2024).",
    },
    "artifact-direction": {
        "direction": "artifact",
        "about": "Control: innerpo along what tells chosen from rejected behind any prompt.",
    },
    "residual-context": {
        **_OUTPUT_ONLY,
        "output": "residual",
        "direction": "context",
        "about": "Residual with the log-odds of the context direction.",
    },
    "residual-artifact": {
        **_OUTPUT_ONLY,
        "output": "residual",
        "direction": "artifact",
        "about": "Residual with the log-odds of the artifact direction: trains on what needs the prompt.",
    },
    "mismatch": {
        **_OUTPUT_ONLY,
        "mismatch": 1.0,
        "about": "DPO plus a penalty on preferring either response behind another pair's prompt.",
    },
    "mismatch-foreign": {
        **_OUTPUT_ONLY,
        "mismatch": 1.0,
        "foreign": 1.0,
        "about": "Mismatch, and the chosen response is preferred to another pair's (after Liu et al. 2024).",
    },
    "mismatch-ties": {
        **_OUTPUT_ONLY,
        "ties": 1.0,
        "about": "Control: DPO plus the penalty of mismatch on two random responses of other pairs.",
    },
    "anchor-drift": {
        **_OUTPUT_ONLY,
        "anchor_drift": 0.1,
        "about": "DPO plus a penalty on drift of hidden states on unrelated unlabelled texts.",
    },
    "anchor-kl": {
        **_OUTPUT_ONLY,
        "anchor_kl": 0.1,
        "about": "DPO plus a penalty on the divergence of the output on unrelated unlabelled texts.",
    },
    "anchor-drift-self": {
        **_OUTPUT_ONLY,
        "anchor_drift": 0.1,
        "anchor_data": "self",
        "about": "Control: anchor-drift on the training data's own texts.",
    },
    "anchor-kl-self": {
        **_OUTPUT_ONLY,
        "anchor_kl": 0.1,
        "anchor_data": "self",
        "about": "Control: anchor-kl on the training data's own texts.",
    },
    "probe": {
        "output": "none",
        "gamma": 0.0,
        "frozen": True,
        "about": "No training: the frozen base model's preference direction scores responses (a baseline).",
    },
    "random-direction": {
        "direction": "random",
        "about": "Control: innerpo with a random direction in place of the preference direction.",
    },
    "shuffled-labels": {
        "data": {"shuffled_labels": 0.5},
        "about": "Control: innerpo with chosen and rejected swapped at random in half of the training pairs.",
    },
    "shuffled-prompts": {
        **_OUTPUT_ONLY,
        "data": {"shuffled_prompts": True},
        "about": "Control: DPO on the same pairs behind other pairs' prompts; what is to be subtracted in a contrast.",
    },
    "flipped-labels": {
        **_OUTPUT_ONLY,
        "data": {"shuffled_labels": 1.0},
        "about": "Control: DPO with chosen and rejected swapped in every pair; what is to be subtracted in a contrast.",
    },
    "drift-only": {
        "alpha": 0.0,
        "about": "Control: innerpo without its margin term: DPO plus the penalty on drift of hidden states.",
    },
}

# name -> Term(function, needs, sees_labels); function: TermInputs -> one loss per pair (methods/records.py).
# Facts: needs. A name of this table that is no MethodConfig field gets its weight from method.extra.
TERMS: dict[str, Entry] = {
    "output": lazy("innerpo.methods.terms.output:output", needs="logps"),
    "inner": lazy("innerpo.methods.terms.inner:inner", needs="states"),
    "drift": lazy("innerpo.methods.terms.drift:drift", needs="token_states"),
    "angle": lazy("innerpo.methods.terms.angle:angle", needs="states"),
    "separation": lazy("innerpo.methods.terms.separation:separation", needs="states"),
    "coherence": lazy("innerpo.methods.terms.coherence:coherence", needs="logps"),
    "sft": lazy("innerpo.methods.terms.sft:sft", needs="logps"),
    "reroute": lazy("innerpo.methods.terms.reroute:reroute", needs="states"),
    "retain": lazy("innerpo.methods.terms.reroute:retain", needs="states"),
    "soft_ablate": lazy("innerpo.methods.terms.soft_ablate:soft_ablate", needs="states"),
    "mismatch": lazy("innerpo.methods.terms.mismatch:mismatch", needs="logps"),
    "foreign": lazy("innerpo.methods.terms.mismatch:foreign", needs="logps"),
    "ties": lazy("innerpo.methods.terms.mismatch:ties", needs="logps"),
    "anchor_drift": lazy("innerpo.methods.terms.anchor:anchor_drift", needs="logps"),
    "anchor_kl": lazy("innerpo.methods.terms.anchor:anchor_kl", needs="logps"),
}

# name -> OutputForm: a function of TermInputs (it reads policy, reference and method) to one loss per pair, from
# log-probabilities alone. method.output names the form of the term "output".
OUTPUTS: dict[str, Entry] = {
    "dpo": "innerpo.methods.outputs.dpo:dpo",
    "ipo": "innerpo.methods.outputs.ipo:ipo",
    "simpo": "innerpo.methods.outputs.simpo:simpo",
    "dpo_norm": "innerpo.methods.outputs.dpo_norm:dpo_norm",
    "rdpo": "innerpo.methods.outputs.rdpo:rdpo",
    "lddpo": "innerpo.methods.outputs.lddpo:lddpo",
    "dpop": "innerpo.methods.outputs.dpop:dpop",
    "cdpo": "innerpo.methods.outputs.cdpo:cdpo",
    "robust": "innerpo.methods.outputs.robust:robust",
    "hinge": "innerpo.methods.outputs.hinge:hinge",
    "apo_zero": "innerpo.methods.outputs.apo:apo_zero",
    "apo_down": "innerpo.methods.outputs.apo:apo_down",
    "residual": "innerpo.methods.outputs.residual:residual",
}

# name -> function: NoteInputs -> log-odds that chosen is better, one per pair (methods/notes/notes.py).
OFFSETS: dict[str, Entry] = {
    "probe": "innerpo.methods.notes.probe:probe",
    "permuted": "innerpo.methods.notes.probe:permuted",
    "length": "innerpo.methods.notes.probe:length",
    "reversed": "innerpo.methods.notes.probe:reversed_",
}

# name -> function: NoteInputs -> weights, one per pair (methods/notes/notes.py).
WEIGHTINGS: dict[str, Entry] = {
    "probe": "innerpo.methods.notes.reweight:probe",
    "random": "innerpo.methods.notes.reweight:random",
    "disputed": "innerpo.methods.notes.reweight:disputed",
    "disputed-random": "innerpo.methods.notes.reweight:disputed_random",
}

# name -> function: (FitInputs, MethodConfig) -> Transform with an orthonormal basis (methods/transforms/transform.py).
TRANSFORMS: dict[str, Entry] = {
    "none": "innerpo.methods.transforms.none:fit",
    "supr": "innerpo.methods.transforms.supr:fit",
    "ether": "innerpo.methods.transforms.ether:fit",
    "ortho": "innerpo.methods.transforms.ortho:fit",
    "hra": "innerpo.methods.transforms.hra:fit",
    "svd": "innerpo.methods.transforms.svd:fit",
    "random": "innerpo.methods.transforms.random:fit",
}

# name -> Direction(fit, own, remove, gradients, draw); fit: DirectionInputs -> (directions, directions without each
# pair) (methods/directions/direction.py). Facts: remove (method.remove applies), gradients (method.gradient applies).
DIRECTIONS: dict[str, Entry] = {
    "shared": lazy("innerpo.methods.directions.shared:shared", remove=True, gradients=True),
    "pair": lazy("innerpo.methods.directions.pair:pair", remove=False, gradients=False),
    "mix": lazy("innerpo.methods.directions.mix:mix", remove=True, gradients=False),
    "lda": lazy("innerpo.methods.directions.lda:lda", remove=True, gradients=False),
    "random": lazy("innerpo.methods.directions.random:random", remove=False, gradients=True),
    "context": lazy("innerpo.methods.directions.context:context", remove=True, gradients=False),
    "artifact": lazy("innerpo.methods.directions.context:artifact", remove=True, gradients=False),
}

# name -> Kind(columns, mismatched); columns: SubspaceInputs -> columns, from which the orthonormal basis is made
# (methods/subspaces/subspace.py). The first column points from rejected to chosen, for inoculation.
SUBSPACES: dict[str, Entry] = {
    "regressors": "innerpo.methods.subspaces.regressors:regressors",
    "shared": "innerpo.methods.subspaces.shared:shared",
    "artifact": "innerpo.methods.subspaces.artifact:artifact",
    "top": "innerpo.methods.subspaces.top:top",
    "random": "innerpo.methods.subspaces.random:random",
}

# name -> subclass of GradientEdit, constructed from (unit directions by ModuleKey, kappa) (methods/gradients/edit.py).
GRADIENTS: dict[str, Entry] = {
    "projgrad": "innerpo.methods.gradients.projgrad:ProjGrad",
    "projbp": "innerpo.methods.gradients.projbp:ProjBp",
}

# kind -> function: (name without its kind, "train" or "test", DataConfig, BadRows) -> list of every best/worse pair.
SOURCES: dict[str, Entry] = {
    "genies": "innerpo.data.sources.genies:load",
    "ethics": "innerpo.data.sources.ethics:load",
    "embedded": "innerpo.data.sources.embedded:load",
    "files": "innerpo.data.sources.files:load",
    "hub": "innerpo.data.sources.hub:load",
}

# name of a list of shifts -> PACKAGE:FILE.toml#TABLE, or a sequence of DistributionShift (data/shifts.py). A source's
# default target is that of its first shift, in the order of this table.
SHIFTS: dict[str, Entry] = {
    "embedded": "innerpo.data:shifts.toml#embedded",
    "genies": "innerpo.data:shifts.toml#genies",
    "genies_all": "innerpo.data:shifts.toml#genies_all",
    "reversed": "innerpo.data:shifts.toml#reversed",
    "ethics": "innerpo.data:shifts.toml#ethics",
}

# name of a suite of evaluation sets -> the lists of shifts (SHIFTS) whose targets it scores; headline is the source's
# first shift and a control (evaluation/suites.py).
SUITES: dict[str, tuple[str, ...]] = {
    "headline": (),
    "embedded": ("embedded",),
    "genies": ("genies",),
    "genies-all": ("genies", "genies_all"),
}

# name -> function: (facts of responses with base_logp, a polars DataFrame) -> one number per response, higher is
# better (evaluation/outcomes.py).
SCORERS: dict[str, Entry] = {
    "mean_logp": "innerpo.evaluation.scorers.mean_logp:mean_logp",
    "sum_logp": "innerpo.evaluation.scorers.sum_logp:sum_logp",
    "inner": "innerpo.evaluation.scorers.inner:inner",
    "longer": "innerpo.evaluation.scorers.longer:longer",
    "per_character": "innerpo.evaluation.scorers.per_character:per_character",
    "implicit": "innerpo.evaluation.scorers.implicit:implicit",
}

# name -> Metric: a function of joined facts to values of pairs or responses with their weights, and what their mean is
# called (evaluation/metrics/metric.py).
METRICS: dict[str, Entry] = {
    "accuracy": "innerpo.evaluation.metrics.accuracy:accuracy",
    "gain": "innerpo.evaluation.metrics.gain:gain",
    "perplexity_ratio": "innerpo.evaluation.metrics.perplexity_ratio:perplexity_ratio",
    "log_ratio_gain": "innerpo.evaluation.metrics.log_ratio_gain:log_ratio_gain",
    "drift": "innerpo.evaluation.metrics.drift:drift",
    "brier": "innerpo.evaluation.metrics.brier:brier",
    "ece": "innerpo.evaluation.metrics.calibration:ece",
    "genies_compat": "innerpo.evaluation.metrics.genies_compat:genies_compat",
    "best_of_n": "innerpo.evaluation.metrics.best_of_n:best_of_n",
    "elicitation": "innerpo.evaluation.metrics.elicitation:elicitation",
    "differential_elicitation": "innerpo.evaluation.metrics.elicitation:differential_elicitation",
}

# name of a tracker for training.report_to -> function: TrackedRun -> Tracker with log(metrics, step) and
# finish(succeeded) (training/trackers.py). The name is that of the package that the tracker needs. Others that
# transformers knows (tensorboard) are left to it.
TRACKERS: dict[str, Entry] = {
    "wandb": "innerpo.training.trackers:WandbTracker",
    "mlflow": "innerpo.training.trackers:MlflowTracker",
    "trackio": "innerpo.training.trackers:TrackioTracker",
}

# name -> function: (one value per pair, the prompt of each) -> Estimate with its interval.
STATISTICS: dict[str, Entry] = {
    "proportion": "innerpo.evaluation.statistics:proportion",
}


def resolve(table: Mapping[str, Entry], name: str, kind: str) -> Any:
    """Return the object behind a name of a table. Raises UserError, with near matches, for a name that is not in it."""
    check_name(table, name, kind)
    entry = table[name]
    where = entry.where if isinstance(entry, Lazy) else entry
    if not isinstance(where, str):
        return entry
    module, attribute = where.split(":")
    return getattr(importlib.import_module(module), attribute)


def fact(table: Mapping[str, Entry], name: str, key: str, kind: str) -> Any:
    """Return an attribute of the object behind a name, without importing it where the table states the attribute."""
    entry = table.get(name)
    if isinstance(entry, Lazy) and key in entry.facts:
        return entry.facts[key]
    return getattr(resolve(table, name, kind), key)


def check_name(table: Mapping[str, Entry], name: str, kind: str) -> None:
    """Raise UserError, with near matches, for a name that is not in a table."""
    if name not in table:
        raise UserError(f"unknown {kind} {name!r}{near_matches(name, table)}")
