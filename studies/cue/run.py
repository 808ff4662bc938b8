"""Train and score the cue bench: ``python -m studies.cue.run --out=outputs/cue``. Goes on where it stopped.

Start it twice for two workers; they share the list.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from innerpo.config.evaluation import EvalConfig
from innerpo.config.labels import group_label
from innerpo.config.run import RunConfig, default_run
from studies.runner import DTYPES, settle

RESULTS = Path(__file__).parent / "results"
"""Scores that are kept in the repository, a folder a part."""

SEEDS = (1, 2, 3, 4, 5)
STRENGTHS = (0.125, 0.25, 0.5, 1.0)

METHODS: dict[str, tuple[str, dict[str, float]]] = {
    "dpo": ("dpo", {}),
    "residual": ("residual", {}),
    "residual-permuted": ("residual-permuted", {}),
    "reweight x10": ("reweight", {"reweight_factor": 10.0}),
    "reweight-random x10": ("reweight-random-pairs", {"reweight_factor": 10.0}),
    "residual kappa 2": ("residual", {"offset_weight": 2.0}),
    "residual-permuted kappa 2": ("residual-permuted", {"offset_weight": 2.0}),
    "residual-artifact": ("residual-artifact", {}),
    "residual-length": ("residual-length", {}),
    "innerpo": ("innerpo", {}),
    "ablate": ("ablate", {}),
    "ablate-random-cue": ("ablate-random-cue", {}),
    "soft-ablate": ("soft-ablate", {}),
    "soft-ablate-random-cue": ("soft-ablate-random-cue", {}),
    "inoculate": ("inoculate", {}),
    "inoculate-random-cue": ("inoculate-random-cue", {}),
}
"""Row of the bench -> method and its fields. The first five have five seeds, the others the first three."""

FIVE_SEEDS = 5
"""How many of METHODS, from the first, are trained with all seeds."""

NOISY: dict[str, tuple[str, dict[str, float]]] = {
    "dpo": METHODS["dpo"],
    "residual": METHODS["residual"],
    "reweight x10": METHODS["reweight x10"],
    "reweight-disputed x10": ("reweight-disputed", {"reweight_factor": 10.0}),
    "cdpo": ("cdpo", {}),
    "reweight x4": ("reweight", {}),
    "reweight-disputed-random x10": ("reweight-disputed-permuted", {"reweight_factor": 10.0}),
    "residual kappa 0.5": ("residual", {"offset_weight": 0.5}),
}
"""Rows of the study of wrong labels."""

RHOS, NOISES, NOISY_SEEDS = (0.8, 0.95, 1.0), (0.0, 0.05, 0.1), (1, 2)


@dataclass(frozen=True)
class Options:
    """What is trained, and where it is kept."""

    part: str = "bench"
    """bench (methods and controls, rho .95), balanced (dpo at rho .5), or noise (wrong labels, three rhos)."""
    out: Path = Path("outputs/cue")
    """Folder of runs."""
    threads: int = 1
    """CPU threads of this worker."""
    dtype: str = "auto"
    """Type of the base weights."""


def config_of(
    method: str, fields: dict[str, float], dataset: str, seed: int, strengths: tuple[float, ...] = STRENGTHS
) -> RunConfig:
    """Return the config of one run of the bench."""
    config = default_run(method)
    return replace(
        config,
        method=replace(config.method, **fields),  # type: ignore[arg-type]  # a field's type is checked by the record
        data=replace(config.data, dataset=dataset),
        training=replace(config.training, lr=5e-4, seed=seed, save_steps=0),
        eval=EvalConfig(sets=("test", "oos", "rnd"), strengths=strengths),
    )


def bench() -> list[RunConfig]:
    """Methods and controls where the cue holds in 95 % of the training pairs, by seed."""
    rows = list(METHODS.values())
    few = [(m, seed) for m in rows[FIVE_SEEDS:] for seed in SEEDS[:3]]
    return [
        config_of(*m, "embedded:cue", seed) for m, seed in [*((m, s) for s in SEEDS for m in rows[:FIVE_SEEDS]), *few]
    ]


def balanced() -> list[RunConfig]:
    """DPO where the cue says nothing: can the right feature be learned at all?"""
    return [config_of("dpo", {}, "embedded:cue(rho=.5)", seed) for seed in SEEDS]


def noisy() -> list[RunConfig]:
    """Methods that lean on pairs that a probe gets wrong, at three rates of wrong labels and three of the cue."""
    cells = [(rho, noise) for noise in NOISES for rho in RHOS]
    rows = list(NOISY.values())
    return [
        config_of(*method, f"embedded:cue(rho={rho:g},noise={noise:g})", seed, (1.0,))
        for seed in NOISY_SEEDS
        for some in (rows[:4], rows[4:])
        for rho, noise in cells
        for method in some
    ]


def names() -> dict[str, str]:
    """Return row of a study (labels.group_label) -> name in METHODS or NOISY, in whatever type the base was loaded."""
    return {
        group_label(replace(c, model=replace(c.model, dtype=dtype))): name  # type: ignore[arg-type]
        for name, c in ((n, config_of(*m, "embedded:cue", 1)) for n, m in (METHODS | NOISY).items())
        for dtype in DTYPES
    }


PARTS = {"bench": bench, "balanced": balanced, "noise": noisy}


if __name__ == "__main__":
    options = tyro.cli(Options)
    configs = [
        replace(c, model=replace(c.model, dtype=options.dtype))  # type: ignore[arg-type]  # the loader refuses others
        for c in PARTS[options.part]()
    ]
    settle(configs, options.out / options.part, RESULTS / options.part, names(), options.threads)
