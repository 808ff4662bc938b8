"""What tuning varies of each method: config fields with their ranges, beside the registry's table of methods.

A range is (lowest, highest, "log" or "linear"). It says where a good value may lie, not where one may be: other values
are allowed in a config. A program adds ``SPACES["mine"] = {...}``; a method without an entry has its learning rate
tuned.
"""

Range = tuple[float, float, str]

_LR: dict[str, Range] = {"training.lr": (2e-5, 2e-3, "log")}
_DPO: dict[str, Range] = {**_LR, "method.beta": (0.01, 1.0, "log")}
_DRIFT: dict[str, Range] = {"method.gamma": (0.01, 1.0, "log")}
_INNERPO: dict[str, Range] = {**_DPO, "method.alpha": (0.03, 3.0, "log"), **_DRIFT}
_KAPPA: dict[str, Range] = {**_DPO, "method.kappa": (0.01, 1.0, "log")}
_RESIDUAL: dict[str, Range] = {**_DPO, "method.offset_weight": (0.1, 3.0, "log")}
_REWEIGHT: dict[str, Range] = {**_DPO, "method.reweight_factor": (1.5, 20.0, "log")}
_ABLATE: dict[str, Range] = {**_DPO, "method.ablate": (0.1, 1.0, "linear")}
_SOFT_ABLATE: dict[str, Range] = {**_DPO, "method.soft_ablate": (0.05, 10.0, "log")}
_INOCULATE: dict[str, Range] = {**_DPO, "method.inoculate": (0.1, 4.0, "log")}
_MISMATCH: dict[str, Range] = {**_DPO, "method.mismatch": (0.05, 10.0, "log")}
_ANCHOR_DRIFT: dict[str, Range] = {**_DPO, "method.anchor_drift": (0.005, 2.0, "log")}
_ANCHOR_KL: dict[str, Range] = {**_DPO, "method.anchor_kl": (0.005, 2.0, "log")}

# method -> field -> range. A control has the space of what it controls for, so that both get the same chance.
SPACES: dict[str, dict[str, Range]] = {
    "innerpo": _INNERPO,
    "dpo": _DPO,
    "ipo": _DPO,
    "simpo": {**_LR, "method.beta": (0.5, 10.0, "log"), "method.simpo_gamma": (0.1, 5.0, "log")},
    "dpo-norm": {**_LR, "method.beta": (0.5, 20.0, "log")},
    "rdpo": {**_DPO, "method.rdpo_alpha": (0.005, 0.5, "log")},
    "lddpo": {**_DPO, "method.ld_alpha": (0.0, 1.0, "linear")},
    "dpop": {**_DPO, "method.dpop_lambda": (1.0, 200.0, "log")},
    "cdpo": {**_DPO, "method.label_smoothing": (0.0, 0.4, "linear")},
    "robust-dpo": {**_DPO, "method.label_smoothing": (0.0, 0.4, "linear")},
    "hinge": _DPO,
    "apo-zero": _DPO,
    "apo-down": _DPO,
    "sft": _LR,
    "projgrad": _KAPPA,
    "projbp": _KAPPA,
    "prefvec": {**_INNERPO, "method.angle": (0.01, 1.0, "log"), "method.coherence": (0.1, 10.0, "log")},
    "reroute": {**_LR, "method.reroute": (0.1, 10.0, "log"), "method.retain": (0.1, 10.0, "log")},
    "residual": _RESIDUAL,
    "residual-permuted": _RESIDUAL,
    "residual-length": _RESIDUAL,
    "residual-reversed": _RESIDUAL,
    "reweight": _REWEIGHT,
    "reweight-random-pairs": _REWEIGHT,
    "reweight-disputed": _REWEIGHT,
    "reweight-disputed-permuted": _REWEIGHT,
    "ablate": _ABLATE,
    "ablate-artifact": _ABLATE,
    "ablate-random-cue": _ABLATE,
    "ablate-top": _ABLATE,
    "ablate-shared": _ABLATE,
    "soft-ablate": _SOFT_ABLATE,
    "soft-ablate-random-cue": _SOFT_ABLATE,
    "inoculate": _INOCULATE,
    "inoculate-random-cue": _INOCULATE,
    "inoculate-reversed": {**_DPO, "method.inoculate": (-4.0, -0.1, "linear")},
    "context-direction": _INNERPO,
    "artifact-direction": _INNERPO,
    "residual-context": _RESIDUAL,
    "residual-artifact": _RESIDUAL,
    "mismatch": _MISMATCH,
    "mismatch-foreign": {**_MISMATCH, "method.foreign": (0.05, 10.0, "log")},
    "mismatch-ties": {**_DPO, "method.ties": (0.05, 10.0, "log")},
    "anchor-drift": _ANCHOR_DRIFT,
    "anchor-kl": _ANCHOR_KL,
    "anchor-drift-self": _ANCHOR_DRIFT,
    "anchor-kl-self": _ANCHOR_KL,
    "probe": {},
    "random-direction": _INNERPO,
    "shuffled-labels": _INNERPO,
    "shuffled-prompts": _DPO,
    "flipped-labels": _DPO,
    "drift-only": {**_DPO, **_DRIFT},
}


def space_of(method: str) -> dict[str, Range]:
    """Return what tuning varies of a method, by its name without a transform."""
    return dict(SPACES.get(method, _LR))
