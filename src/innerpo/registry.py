"""Every name that a command line can say, and where the code behind it lives: grep here first.

The values are ``module:attribute`` strings, so that reading this table (for a help page, say) imports neither torch
nor transformers. A program that adds its own puts the object itself in the table: ``TERMS["mine"] = my_term``.
"""

import importlib
from typing import Any

from innerpo.errors import UserError, near_matches

Entry = Any
"""``module:attribute``, or the object itself (a Term, a function)."""

_OUTPUT_ONLY = {"alpha": 0.0, "gamma": 0.0}

METHODS: dict[str, dict[str, Any]] = {
    # name -> the MethodConfig fields in which it differs from the defaults; under "data", fields of DataConfig.
    # NAME-TRANSFORM is known too, for each method that reads states (innerpo.config.method.method_names lists them).
    "dpo": {**_OUTPUT_ONLY},
    "innerpo": {},
    "ipo": {**_OUTPUT_ONLY, "output": "ipo"},
    "simpo": {**_OUTPUT_ONLY, "output": "simpo", "beta": 2.0},
    "sft": {**_OUTPUT_ONLY, "output": "none", "sft": 1.0},
    "projgrad": {**_OUTPUT_ONLY, "gradient": "projgrad"},
    "projbp": {**_OUTPUT_ONLY, "gradient": "projbp"},
    "prefvec": {"direction": "pair", "inner": "linear", "angle": 0.1, "coherence": 1.0},
    "reroute": {**_OUTPUT_ONLY, "output": "none", "reroute": 1.0, "retain": 1.0},
    "probe": {"output": "none", "gamma": 0.0, "frozen": True},
    "random-direction": {"direction": "random"},
    "shuffled-labels": {"data": {"shuffled_labels": 0.5}},
    "drift-only": {"alpha": 0.0},
}

TERMS: dict[str, Entry] = {
    # name -> (policy, reference, directions, method config) -> one loss per pair
    "output": "innerpo.methods.terms.output:output",
    "inner": "innerpo.methods.terms.inner:inner",
    "drift": "innerpo.methods.terms.drift:drift",
    "angle": "innerpo.methods.terms.angle:angle",
    "separation": "innerpo.methods.terms.separation:separation",
    "coherence": "innerpo.methods.terms.coherence:coherence",
    "sft": "innerpo.methods.terms.sft:sft",
    "reroute": "innerpo.methods.terms.reroute:reroute",
    "retain": "innerpo.methods.terms.reroute:retain",
}

GRADIENTS: dict[str, Entry] = {
    # name -> (directions by module, kappa) -> GradientEdit
    "projgrad": "innerpo.methods.gradients.projgrad:ProjGrad",
    "projbp": "innerpo.methods.gradients.projbp:ProjBp",
}

TRANSFORMS: dict[str, Entry] = {
    # name -> (reference states, method config) -> Transform with orthonormal rows
    "none": "innerpo.methods.transforms.none:fit",
    "supr": "innerpo.methods.transforms.supr:fit",
    "ether": "innerpo.methods.transforms.ether:fit",
    "ortho": "innerpo.methods.transforms.ortho:fit",
    "hra": "innerpo.methods.transforms.hra:fit",
    "svd": "innerpo.methods.transforms.svd:fit",
    "random": "innerpo.methods.transforms.random:fit",
}


SCORERS: dict[str, Entry] = {
    # name -> (facts of responses, a polars DataFrame) -> one number per response, higher is better
    "mean_logp": "innerpo.evaluation.scorers.mean_logp:mean_logp",
    "sum_logp": "innerpo.evaluation.scorers.sum_logp:sum_logp",
    "inner": "innerpo.evaluation.scorers.inner:inner",
    "longer": "innerpo.evaluation.scorers.longer:longer",
}

STATISTICS: dict[str, Entry] = {
    # name -> (one value per pair, the prompt of each) -> Estimate with its interval
    "bootstrap": "innerpo.evaluation.statistics:cluster_mean",
}


def resolve(table: dict[str, Entry], name: str, kind: str) -> Any:
    """Return the object behind a name; a wrong name fails with the near matches."""
    if name not in table:
        raise UserError(f"unknown {kind} {name!r}{near_matches(name, table)}")
    entry = table[name]
    if not isinstance(entry, str):
        return entry
    module, attribute = entry.split(":")
    return getattr(importlib.import_module(module), attribute)
