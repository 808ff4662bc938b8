"""Tables of the two shifts: ``python -m studies.shifts.table [RUNS]`` stores scores, writes docs/results.md."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from innerpo.evaluation.study import Study
from studies.shifts.run import METHODS, RESULTS, SOURCES, STRENGTHS, names
from studies.stored import scored, store, stored
from studies.tables import PAGE, insert, shift_table

CONTROLS = {"residual": "residual-permuted"}


def tables(study: Study) -> str:
    """The tables of all sources that were scored."""
    text, own = "", _with(study, STRENGTHS)
    for source in SOURCES:
        runs = study.runs.filter(study.runs["source"] == source)["run"].to_list()
        if runs:
            targets = study.sets.filter(study.sets["run"].is_in(runs), study.sets["role"] == "oos")
            text += f"{source} -> {targets['dataset'][0]}:\n\n{shift_table(own, source, METHODS, CONTROLS, 'dpo')}\n"
    return text


def _with(study: Study, strengths: Sequence[float]) -> Study:
    """The study at some strengths: its first two runs have one more."""
    return replace(study, responses=study.responses.filter(study.responses["strength"].is_in([0.0, *strengths])))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        store(scored(Path(sys.argv[1])), RESULTS, names())
    insert(PAGE, "shifts", tables(stored(RESULTS)))
