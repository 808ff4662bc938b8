"""Whether a run's folder holds all that a config asks for: the adapter, and scores at the wanted strengths."""

import logging
from collections.abc import Collection
from dataclasses import replace
from functools import cache
from pathlib import Path

import polars as pl

from innerpo.config.identity import run_id, scores_id
from innerpo.config.run import RunConfig
from innerpo.config.yaml import read_run_config
from innerpo.data.sources.places import same_data
from innerpo.errors import UserError
from innerpo.evaluation.facts import SCHEMAS, distinct, file_of
from innerpo.evaluation.headline_files import scores_place
from innerpo.evaluation.suites import targets
from innerpo.experiments.attempt import is_trained

log = logging.getLogger(__name__)


def is_done(run: Path, config: RunConfig) -> bool:
    """Whether nothing is left to do. ``run`` is the folder of the run, which may be scored on more than is asked for.

    Raises UserError where it holds another run: a plain name is that of a method's defaults, which releases may change.
    """
    if not is_trained(run):
        return False
    held = read_run_config(run)
    if held is not None and run_id(held) != run_id(config):
        raise UserError(
            f"{run} holds another run of this name (id {run_id(held)}, asked for is {run_id(config)}), made with other "
            "defaults, say; use another output_dir, or move it away"
        )
    if config.eval.skip or is_scored(scores_place(run, held, config), config):
        return True
    return held is not None and _differs_in_sets(held, config) and _has_their_data(run, config)


def _differs_in_sets(held: RunConfig, config: RunConfig) -> bool:
    """Whether what is asked for are some sets by name, and all else of the scores is as a run's own config has it."""
    same = replace(held, eval=replace(held.eval, sets=config.eval.sets))
    return bool(config.eval.sets) and scores_id(same) == scores_id(config)


def _has_their_data(run: Path, config: RunConfig) -> bool:
    """Whether a run's own scores hold the sets that a config names: by their short names, and of the same data."""
    wanted = {target.name: target.dataset for target in targets(config)}
    known = dict(_distinct(run, "sets", "set", "dataset").rows())
    alike = all(name in known and same_data(known[name], dataset) for name, dataset in wanted.items())
    return alike and is_scored(run, config, {*wanted, *({"train", "test"} & set(config.eval.sets))})


def is_scored(folder: Path, config: RunConfig, names: Collection[str] = ()) -> bool:
    """Whether a folder holds scores at every strength, on every set that is to have it, that a config asks for.

    ``names``: the sets that count; else those that the scores have. Scores that cannot be read are none.
    """
    if not (folder / "headline.json").is_file() or not file_of(folder, "responses"):  # the former is written last
        return False
    rows = _distinct(folder, "responses", "set", "strength").filter(pl.col("strength") != 0.0)
    sets = _distinct(folder, "sets", "set", "dataset", "split")
    if not len(rows):
        return False
    asked = _of_file(config)
    if asked and not asked <= set(sets.rows()):
        return False
    empty = set(sets["set"]) - set(rows["set"])  # may be asked for, at every strength too, and has no rows
    known = set(names) - empty or set(rows["set"])
    some = config.eval.at_every_strength([*dict.fromkeys([*sets["set"], *known])])
    found = set(rows.rows())
    wanted = {1.0} if config.method.frozen else set(config.eval.strengths) - {0.0}
    return all((name, s) in found for s in wanted for name in known if s == 1.0 or name in some)


def _distinct(folder: Path, name: str, *columns: str) -> pl.DataFrame:
    """The different rows of a folder's facts; none, and a word in the log, where they cannot be read."""
    try:
        return distinct(folder, name, *columns)
    except UserError as error:
        _say_once(f"{folder} does not count as scored: {error}")
        return pl.DataFrame(schema={column: SCHEMAS[name][column] for column in columns})


@cache
def _say_once(text: str) -> None:
    """Log what a sweep would find again at every look."""
    log.warning(text)


def _of_file(config: RunConfig) -> set[tuple[str, str, str]]:
    """Names, data sets and splits that the TOML file of a suite asks for now: an id of scores holds its path alone."""
    suite = Path(config.eval.suite)
    if suite.suffix != ".toml" or not suite.is_file():  # an archive may outlive the file
        return set()
    return {(target.name, target.dataset, target.split) for target in targets(config) if target.named}
