"""Tables of the two shifts: ``python -m studies.shifts.table [RUNS]`` stores scores, writes docs/results.md."""

import sys
from dataclasses import replace
from pathlib import Path

from innerpo.evaluation.statistics import Estimate
from innerpo.evaluation.study import Study, select_runs
from studies.shifts.run import METHODS, RESULTS, SOURCES, STRENGTHS, Options, names
from studies.stored import scored, store, stored
from studies.tables import PAGE, UNKNOWN, accuracies, estimate_text, frontier_gains, insert, markdown

CONTROLS = {"residual": "residual-permuted"}


def table(study: Study, source: str) -> str:
    """Accuracies by strength on one shift, and frontier gains over DPO and over the control."""
    rows = {name: name for name in METHODS}
    own = select_runs(study, study.runs.filter(study.runs["source"] == source)["run"].to_list())
    every = own.responses["strength"].is_in([0.0, *STRENGTHS])  # the first two runs have one more
    own = replace(own, responses=own.responses.filter(every))
    by_strength = {s: accuracies(own, rows, ("test", "oos"), s) for s in STRENGTHS}
    over_dpo = frontier_gains(own, rows, "dpo")
    lines = [["base", *by_strength[1.0]["base"], "", ""]]
    for name in METHODS:
        pair = {n: rows[n] for n in (name, CONTROLS.get(name, "")) if n in rows}
        over_control = frontier_gains(own, pair, CONTROLS[name]) if CONTROLS.get(name) in by_strength[1.0] else {}
        for strength, figures in by_strength.items():
            more = (_of(name, found) if strength == 1.0 else "" for found in (over_dpo, over_control))
            if name in figures:
                lines.append([f"{name} x {strength:g}", *figures[name], *more])
    return markdown(["method", "test", "oos", "gain over dpo", "gain over its control"], lines)


def tables(study: Study) -> str:
    """The tables of all sources that were scored, with how many seeds each method has."""
    text = ""
    for source in SOURCES:
        own = study.runs.filter(study.runs["source"] == source)
        if len(own):
            seeds = ", ".join(map(str, sorted(own["seed"].unique())))
            targets = study.sets.filter(study.sets["run"].is_in(own["run"].to_list()), study.sets["role"] == "oos")
            text += f"{source} -> {targets['dataset'][0]}, seeds {seeds}.\n\n{table(study, source)}\n"
    return text


def _of(name: str, found: dict[tuple[str, str], Estimate]) -> str:
    gain = next((g for (n, _), g in found.items() if n == name), UNKNOWN)
    return estimate_text(gain, True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        store(scored(Path(sys.argv[1])), RESULTS, names(Options()))
    insert(PAGE, "shifts", tables(stored(RESULTS)))
