"""What the runs of a table were given: training pairs and steps, trials of tuning, prompts scored, strengths."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from innerpo.evaluation.study import Study


def budget_notes(study: Study) -> tuple[str, ...]:
    """Return lines on the budgets of training, tuning and scoring, and on strengths; none on what is not known."""
    return (*_training(study), *_tuning(study), *_scoring(study), *_strengths(study))


def _training(study: Study) -> Iterator[str]:
    """Pairs and steps by source, with the rows that had others than the rest."""
    for source in study.runs["source"].unique(maintain_order=True):
        runs = study.runs.filter(pl.col("source") == source)
        by_budget: dict[tuple[Any, Any], list[str]] = {}
        for method, folder in runs.select("method", "folder").rows():
            record = _record(Path(folder))
            if "n_pairs" in record:
                by_budget.setdefault((record["n_pairs"], record.get("steps")), []).append(method)
        for (pairs, steps), methods in by_budget.items():
            who = "" if len(by_budget) == 1 else f" ({', '.join(dict.fromkeys(methods))})"
            trained = f", {steps} steps" if isinstance(steps, int) else ""
            yield f"trained on {source}: {pairs} pairs{trained}{who}"


def _tuning(study: Study) -> Iterator[str]:
    """Trials behind the options of tuned methods, by source, and the methods that were not tuned beside them."""
    for source in study.runs["source"].unique(maintain_order=True):
        runs = study.runs.filter(pl.col("source") == source)
        tuned: dict[tuple[Any, Any], dict[str, Any]] = {}
        plain: dict[str, None] = {}
        for method, folder in runs.select("method", "folder").rows():
            budget = _record(Path(folder)).get("tuned")
            if isinstance(budget, dict):
                seconds = tuned.setdefault((budget.get("trials"), budget.get("prompts")), {})
                seconds[method] = budget.get("seconds")
            else:
                plain[method] = None
        for (trials, prompts), methods in tuned.items():
            who = ", ".join(f"{method} ({_count(seconds)} s)" for method, seconds in methods.items())
            yield f"tuned on {source}: {_count(trials)} trials on {_count(prompts)} validation prompts: {who}"
        if tuned and plain:
            yield f"not tuned on {source}: {', '.join(plain)}"


def _count(value: Any) -> str:
    return f"{value:.0f}" if isinstance(value, int | float) else "?"


def _scoring(study: Study) -> Iterator[str]:
    """Prompts of each set, where all have as many in one line."""
    counts = study.sets.filter(pl.col("prompts") > 0).select("dataset", "split", "prompts").unique(maintain_order=True)
    if not len(counts):
        return
    if counts["prompts"].n_unique() == 1:
        yield f"scored: {counts['prompts'][0]} prompts of each set"
    else:
        yield "scored: " + ", ".join(f"{d} ({s}) {n} prompts" for d, s, n in counts.rows())


def _strengths(study: Study) -> Iterator[str]:
    """Strengths of the policies, by sets, where there is another than 1."""
    rows = study.responses.filter(pl.col("strength") > 0.0).select("set", "strength").unique().sort("strength", "set")
    by_sets: dict[tuple[float, ...], list[str]] = {}
    for name in study.sets["set"].unique(maintain_order=True):
        found = tuple(rows.filter(pl.col("set") == name)["strength"].to_list())
        by_sets.setdefault(found, []).append(name)
    known = {found: names for found, names in by_sets.items() if found}
    if set(known) - {(1.0,)}:
        shown = [f"{', '.join(names)} at {', '.join(f'{s:g}' for s in found)}" for found, names in known.items()]
        yield f"strengths: {'; '.join(shown)}"


def _record(folder: Path) -> dict[str, Any]:
    for path in (folder / "run.json", folder.resolve().parent / "run.json"):
        try:
            found = json.loads(path.read_text())
        except (OSError, ValueError):
            continue
        return found if isinstance(found, dict) else {}
    return {}
