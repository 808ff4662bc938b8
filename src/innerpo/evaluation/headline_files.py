"""The tables of a run: which scorers get one, and the files that hold them."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from innerpo.config.identity import scores_id
from innerpo.config.run import RunConfig
from innerpo.config.yaml import read_run_config
from innerpo.errors import UserError
from innerpo.evaluation.facts import FILES, Scores, distinct
from innerpo.evaluation.sets import EvaluationSet
from innerpo.evaluation.statistics import Statistic
from innerpo.evaluation.tables import Headline, as_markdown, as_plain, headline
from innerpo.files import write_text
from innerpo.registry import STATISTICS, resolve

TABLES = "headline.json"
OVERLAP = "overlap.jsonl"
FACTS = tuple(f"{stem}.{kind}" for stem in FILES.values() for kind in ("parquet", "jsonl"))


def headlines(
    scores: Scores, sets: Sequence[EvaluationSet], scorers: Sequence[str] | None = None
) -> dict[str, Headline]:
    """Return the headline table by each scorer; by default mean_logp, sum_logp and, where it is known, inner."""
    if scorers is None:
        known = not scores.responses["inner"].is_nan().all()
        scorers = ("mean_logp", "sum_logp", *(["inner"] if known else []))
    statistic: Statistic = resolve(STATISTICS, "proportion", "statistic")
    return {name: headline(scores, sets, name, statistic) for name in scorers}


def write_scores(
    folder: Path,
    scores: Scores,
    sets: Sequence[EvaluationSet],
    config: RunConfig,
    scorers: Sequence[str] | None = None,
) -> dict[str, Headline]:
    """Write the facts (``eval.format``), overlap.jsonl, headline.json and headline.md; return the tables by scorer."""
    (folder / TABLES).unlink(missing_ok=True)  # it is written last, and says that the scores are whole
    scores.write(folder, config.eval.format)
    near = [{"set": s.name, **asdict(found)} for s in sets for found in s.near or ()]
    write_text(folder / OVERLAP, "".join(json.dumps(row) + "\n" for row in near))
    tables = headlines(scores, sets, scorers)
    plain = {name: as_plain(table) for name, table in tables.items()}
    write_text(folder / "headline.md", "\n".join(as_markdown(table) for table in tables.values()))
    write_text(folder / TABLES, json.dumps(plain, indent=2) + "\n")
    return tables


def overlap_numbers(text: str) -> str:
    """Return the lines of an overlap.jsonl without the beginnings of prompts: those are the data's, not the run's."""
    rows = [json.loads(line) for line in text.splitlines() if line]
    kept = ({k: v for k, v in row.items() if not k.endswith("_text")} for row in rows)
    return "".join(json.dumps(row) + "\n" for row in kept)


def forget_scores(folder: Path) -> None:
    """Remove the files of scores from a folder; what was computed for them stays."""
    for name in (TABLES, *FACTS, OVERLAP, "headline.md"):
        (folder / name).unlink(missing_ok=True)


def scored_before(folder: Path) -> dict[float, set[str]]:
    """Return the sets that a folder's scores have at each strength but 0; nothing where they cannot be read."""
    try:
        rows = distinct(folder, "responses", "strength", "set").rows()
    except UserError:  # they are written anew
        return {}
    found: dict[float, set[str]] = {}
    for strength, name in rows:
        if strength != 0.0:
            found.setdefault(strength, set()).add(name)
    return found


def scores_folder(folder: Path, config: RunConfig) -> Path:
    """Where scores belong: beside a run's adapter for its own sets; else, and for adapters made elsewhere, beneath."""
    return scores_place(folder, read_run_config(folder), config)


def scores_place(folder: Path, own: RunConfig | None, config: RunConfig) -> Path:
    """Return the same where the folder's own config is known."""
    if own is not None and scores_id(config) == scores_id(own):
        return folder
    return folder / f"eval-{scores_id(config)}"
