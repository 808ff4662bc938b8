"""Tables of the headline study: ``python -m studies.headline.table`` writes docs/results.md and README.md.

They are read from the archive of the study. A shift is shown as soon as it has scores; the summary, which the README
shows, covers the shifts on which every method of the first group has every seed.
"""

from functools import cache
from pathlib import Path

import polars as pl

from innerpo.evaluation.columns import MEAN
from innerpo.evaluation.statistics import UNKNOWN, Estimate, minimum_detectable_difference
from innerpo.evaluation.study import Study, read_study, select_runs
from innerpo.evaluation.sweep_folder import runs_in
from innerpo.experiments.plan import Plan
from innerpo.experiments.study import read_study_file
from studies.planned import mean_gain, of_the_plan
from studies.tables import PAGE, accuracies, estimate_text, insert, markdown, shift_table, tests_text

STUDY = Path(__file__).parents[1] / "headline.yaml"
RUNS = Path(__file__).parent / "runs"
README = PAGE.parents[1] / "README.md"

NOTHING = "No run is archived yet."

BASELINE = "dpo"
METHOD = "residual"
"""What the study was made to test."""
CONTROLS = {"residual": "residual-permuted", "innerpo-none": "drift-only"}
"""Method -> the control that must lose to it."""


@cache
def _plan() -> Plan:
    return read_study_file(STUDY).plan


def planned() -> dict[str, dict[str, list[int]]]:
    """Return the seeds of every method of the first group, by data set and method."""
    found: dict[str, dict[str, list[int]]] = {}
    for run in _plan().runs:
        if run.group == 0:
            found.setdefault(run.config.data.dataset, {}).setdefault(run.row, []).append(run.config.training.seed)
    return found


def methods() -> list[str]:
    """Every method of the study, in its order."""
    return list(dict.fromkeys(run.row for run in _plan().runs))


def whole(study: Study) -> list[str]:
    """Return the data sets on which every method of the first group has every seed."""
    rows = set(study.runs.select("source", "method", "seed").rows())
    return [
        source
        for source, wanted in planned().items()
        if all((source, method, seed) in rows for method, seeds in wanted.items() for seed in seeds)
    ]


def shift_tables(study: Study) -> str:
    """A table for every shift that has scores."""
    text = ""
    for source in planned():
        own = study.runs.filter(study.runs["source"] == source)
        if BASELINE in own["method"].unique():
            sets = study.sets.filter(pl.col("run").is_in(own["run"].to_list()), pl.col("role") == "oos")
            text += f"{source} -> {sets['dataset'][0]}:\n\n"
            text += f"{shift_table(study, source, methods(), CONTROLS, BASELINE)}\n"
    return text


def summary(study: Study) -> str:
    """A row for every method of the first group: means over the shifts that are whole, over all seeds."""
    sources, rows = whole(study), list(next(iter(planned().values())))
    if len(sources) < 2:
        return "Fewer than two shifts are whole yet.\n"
    mine = pl.col("source").is_in(sources) & pl.col("method").is_in(rows)
    own = select_runs(study, study.runs.filter(mine)["run"].to_list())
    figures = accuracies(own, {name: name for name in rows}, ("test", MEAN, "rnd"))
    lines = [["base", *figures["base"], "", ""]]
    tested: dict[str, Estimate] = {}
    for name in rows:
        gains = {
            BASELINE: mean_gain(own, name, BASELINE),
            "its control": mean_gain(own, name, CONTROLS.get(name, "")),
        }
        lines.append([name, *figures[name], *(estimate_text(gain, True) for gain in gains.values())])
        tested |= {f"{name} over {over}": gain for over, gain in gains.items()}
    seeds = max(len(seeds) for seeds in planned()[sources[0]].values())
    about = f"Means over {len(sources)} shifts ({', '.join(sources)}), {seeds} seeds each."
    header = ["method", "test", "oos", "rnd", f"gain over {BASELINE}", "gain over its control"]
    found = minimum_detectable_difference(tested.get(f"{METHOD} over {BASELINE}", UNKNOWN))
    power = (
        f" A true mean gain of {METHOD} over {BASELINE} of {found:.3f} would be found four times in five by one test."
    )
    notes = f"Intervals cover shifts, seeds and prompts. {tests_text(tested, 'mean gain')}"
    notes += power if found == found else ""
    return f"{about}\n\n{markdown(header, lines)}\n{notes}\n"


def tables() -> dict[str, str]:
    """The text of each table by the name of its marks."""
    if not (RUNS.is_dir() and runs_in(RUNS)):
        return {"headline/summary": NOTHING, "headline/shifts": NOTHING}
    study = of_the_plan(read_study(RUNS), _plan().runs)
    return {"headline/summary": summary(study), "headline/shifts": shift_tables(study)}


if __name__ == "__main__":
    for name, text in tables().items():
        insert(PAGE, name, text)
        if f"<!-- begin {name} -->" in README.read_text():
            insert(README, name, text)
