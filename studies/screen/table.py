"""Tables of the screen: ``python -m studies.screen.table`` writes docs/results.md.

They are read from the archives of the screen and of the headline study, which shares runs with it. A candidate is
shown on a shift as soon as it has scores there, whatever its seeds.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Set
from functools import cache, partial
from pathlib import Path

import polars as pl

from innerpo.evaluation.curves import gains
from innerpo.evaluation.results import LEVEL
from innerpo.evaluation.statistics import UNKNOWN, Estimate, holm, p_value
from innerpo.evaluation.study import Study, read_study
from innerpo.evaluation.sweep_folder import runs_in
from innerpo.experiments.study import StudyFile, read_study_file
from studies.planned import mean_gain, of_shift, of_the_plan
from studies.tables import PAGE, estimate_text, insert, markdown, shift_table

STUDY = Path(__file__).parents[1] / "screen.yaml"
ROOT = STUDY.parents[1]
"""What the paths in the study file are relative to."""

NOTHING = "No run is archived yet."

BASELINE = "dpo"
CONTROLS: dict[str, tuple[str, ...]] = {
    "reweight": ("reweight-random-pairs",),
    "soft-ablate": ("soft-ablate-random-cue",),
    "context-direction": ("artifact-direction", "random-direction", "innerpo-none"),
    "mismatch": ("mismatch-ties",),
    "mismatch-foreign": ("mismatch-ties",),
    "residual-context": ("residual-permuted", "residual-length", "residual-reversed"),
    "residual-artifact": ("residual-permuted", "residual-length", "residual-reversed"),
    "ablate": ("ablate-random-cue", "ablate-top", "ablate-shared"),
    "ablate-artifact": ("ablate-random-cue", "ablate-top", "ablate-shared"),
    "inoculate": ("inoculate-random-cue", "inoculate-reversed"),
    "anchor-drift": ("anchor-drift-self",),
    "anchor-kl": ("anchor-kl-self",),
}
"""Candidate -> the controls that must lose to it. Contrasts of adapters are made of runs afterwards, and not here."""

WORTH = 0.02
"""The gain that would be worth a second look: expectations in LOG.md call less than this nothing."""

Gains = Callable[[str, str], Estimate]
"""The frontier gain of a method over another."""


@cache
def _study() -> StudyFile:
    return read_study_file(STUDY)


def shifts() -> list[tuple[str, str]]:
    """Source and target of every shift of the study, in its order."""
    configs = [run.config for run in _study().plan.runs]
    return list(dict.fromkeys((c.data.dataset, str(c.eval.oos_dataset)) for c in configs))


def n_seeds() -> int:
    """The number of seeds that every method is to have."""
    return len({run.config.training.seed for run in _study().plan.runs})


def methods() -> list[str]:
    """Every method of the study, in its order."""
    return list(dict.fromkeys(run.row for run in _study().plan.runs))


def verdict(over_baseline: Estimate, over_control: Estimate, p: tuple[float, float]) -> str:
    """``passes`` where both gains are above 0 beyond chance; ``fails`` where one is surely below WORTH."""
    both = (over_baseline, over_control)
    if all(gain.mean > 0.0 and value < LEVEL for gain, value in zip(both, p, strict=True)):
        return "passes"
    return "fails" if any(gain.high < WORTH for gain in both) else "undecided"


def block(where: str, candidates: list[str], gain: Gains, unfinished: Set[str] = frozenset()) -> list[list[str]]:
    """The rows of one shift, or of the mean over shifts: each candidate against dpo and against its best control.

    No verdict on what is ``unfinished``: some seed is missing, of the candidate or of what it is compared with.
    """
    against = {name: {control: gain(name, control) for control in CONTROLS[name]} for name in candidates}
    found = {name: (gain(name, BASELINE), *_least(against[name])) for name in candidates}
    p = holm([p_value(estimate) for over, _, least in found.values() for estimate in (over, least)])
    lines = []
    for at, (name, (over, control, least)) in enumerate(found.items()):
        said = "" if name in unfinished else verdict(over, least, (p[2 * at], p[2 * at + 1]))
        lines.append([where, name, estimate_text(over, True), control, estimate_text(least, True), said])
    return lines


def _least(against: Mapping[str, Estimate]) -> tuple[str, Estimate]:
    """The control over which the gain is least; none where one of them was not scored."""
    if any(found.mean != found.mean for found in against.values()):
        return "", UNKNOWN
    return min(against.items(), key=lambda item: item[1].mean)


def verdicts(study: Study) -> str:
    """What every candidate gains on every shift, and in their mean where all its controls were scored on each."""
    lines: list[list[str]] = []
    scored: Counter[str] = Counter()
    lacking: set[str] = set()
    unfinished: set[str] = set()
    for source, target in shifts():
        shift = of_shift(study, source, target)
        found, seeds = _gains(shift), _seeds(shift)
        known = [name for name in CONTROLS if (name, BASELINE) in found]
        short = {n for n in known if any(seeds.get(m, 0) < n_seeds() for m in (n, BASELINE, *CONTROLS[n]))}
        unfinished |= short
        lines += block(f"{source} -> {target}", known, partial(_looked_up, found), short)
        scored.update(known)
        lacking |= {name for name in known if any((name, control) not in found for control in CONTROLS[name])}
    for number in sorted(set(scored.values()) - {1}, reverse=True):
        alike = [name for name in scored if scored[name] == number and name not in lacking]
        lines += block(f"mean of {number} shifts", alike, partial(mean_gain, study), unfinished)
    header = ["shift", "candidate", f"gain over {BASELINE}", "its best control", "gain over that", "verdict"]
    return markdown(header, lines) if lines else NOTHING


def _seeds(shift: Study) -> dict[str, int]:
    """The number of seeds of every method that was scored on the target of a shift."""
    scored = shift.responses.filter(set="oos").join(shift.runs, on="run")
    return dict(scored.group_by("method").agg(pl.col("seed").n_unique()).rows())


def _looked_up(found: Mapping[tuple[str, str], Estimate], method: str, baseline: str) -> Estimate:
    return found.get((method, baseline), UNKNOWN)


def _gains(shift: Study) -> dict[tuple[str, str], Estimate]:
    """The frontier gains on one shift, by method and baseline, of every candidate over dpo and each of its controls."""
    baselines = {BASELINE, *(control for name in CONTROLS for control in CONTROLS[name])} & set(_seeds(shift))
    found = {}
    for baseline in sorted(baselines):
        for gain in gains(shift, baseline):
            if baseline in (BASELINE, *CONTROLS.get(gain.method, ())):
                found[gain.method, baseline] = gain.frontier
    return found


def shift_tables(study: Study) -> str:
    """Accuracies by strength on every shift that has scores."""
    text, first = "", {name: controls[0] for name, controls in CONTROLS.items()}
    for source, target in shifts():
        shift = of_shift(study, source, target)
        if BASELINE in _seeds(shift):
            text += f"{source} -> {target}:\n\n{shift_table(shift, source, methods(), first, BASELINE)}\n"
    return text


def tables() -> dict[str, str]:
    """The text of each table by the name of its marks."""
    study = _study()
    own = ROOT / str(study.archive)
    if not (own.is_dir() and runs_in(own)):
        return {"screen/verdicts": NOTHING, "screen/shifts": NOTHING}
    found = of_the_plan(read_study([own, *(ROOT / other for other in study.other_archives)]), study.plan.runs)
    return {"screen/verdicts": verdicts(found), "screen/shifts": shift_tables(found)}


if __name__ == "__main__":
    for name, text in tables().items():
        insert(PAGE, name, text)
