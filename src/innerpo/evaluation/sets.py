"""Evaluation sets: named lists of pairs from one split of a data set, each with its role in a comparison."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from innerpo.config.run import RunConfig
from innerpo.data.pairs import PreferencePair, cluster_of, take_prompts
from innerpo.data.shifts import default_target, shifts_from
from innerpo.data.training_pairs import load_split, training_pairs
from innerpo.errors import UserError

log = logging.getLogger(__name__)

Role = Literal["train", "test", "oos", "rnd", "extra"]
"""train: pairs trained on; test: the same distribution; oos: the shift; rnd: an unrelated control; extra: the rest."""

HEADLINE = ("train", "test", "oos", "rnd")
"""Names of the sets in the headline table, in its order."""

PROMPT_SEED = 0
"""Takes the place of ``data.seed`` in what is scored, so that runs of any data seed can be compared pair by pair."""


@dataclass(frozen=True)
class EvaluationSet:
    """Pairs to score under one name.

    ``kind`` is the kind of shift from the training set (difficulty, encoding, ...), empty where it is unknown.
    ``pairs`` is empty where nothing could be loaded; ``note`` then says why. ``n_seen`` counts the set's prompts that
    are training prompts, of all that are trained on and not only of those that the train set samples.
    """

    name: str
    dataset: str
    split: str
    role: Role
    kind: str
    pairs: tuple[PreferencePair, ...]
    note: str = ""
    n_seen: int = 0

    @property
    def n_prompts(self) -> int:
        """Number of distinct prompts."""
        return len({p.cluster for p in self.pairs})

    @property
    def source(self) -> str:
        """The data set as it is named beneath a table."""
        return f"{self.dataset} ({self.split}), {len(self.pairs)} pairs of {self.n_prompts} prompts"


def load_sets(config: RunConfig, trained: Sequence[PreferencePair] | None = None) -> list[EvaluationSet]:
    """Load the headline sets train, test, oos and rnd. ``trained``: all training pairs, if they are loaded already.

    Raises UserError where a data set that the config names, or the training set's own, cannot be loaded. A default
    target or control that cannot be loaded gives an empty set with a note: its accuracy is unknown, not zero.
    """
    source = config.eval.train_dataset or config.data.dataset
    target = config.eval.oos_dataset or default_target(source)
    if source != config.data.dataset:
        trained = load_split(source, "train", config.data)
    elif trained is None:
        trained = training_pairs(config)
    sets = [
        EvaluationSet("train", source, "train", "train", "", _sample("train", trained, config)),
        _load("test", source, "", config),
        _optional("oos", config.eval.oos_dataset, target, config),
        _optional("rnd", config.eval.rnd_dataset, default_control(source, target), config),
    ]
    for found in sets:
        if found.note:
            log.info(found.note)
    seen = {p.cluster for p in trained}
    return [replace(s, n_seen=len({p.cluster for p in s.pairs} & seen)) for s in sets]


def default_control(source: str, target: str | None) -> str | None:
    """Return an unrelated data set: the first usual one that is not source or target and not of their kind."""
    usual = ("ethics:justice", "embedded:control")
    kinds = {name.split(":")[0] for name in (source, target) if name and name.startswith("ethics:")}
    order = reversed(usual) if source.startswith("embedded:") else usual
    free = (name for name in order if name not in (source, target) and name.split(":")[0] not in kinds)
    return next(free, None)


def _optional(role: Literal["oos", "rnd"], named: str | None, default: str | None, config: RunConfig) -> EvaluationSet:
    """Load a data set that the config names (failure is an error) or a default (failure is a note)."""
    source = config.eval.train_dataset or config.data.dataset
    if named is not None:
        return _load(role, named, _kind(source, named), config)
    if default is None:
        what = "shift" if role == "oos" else "control"
        note = f"{role}: no {what} is listed for {source}; name one in eval.{role}_dataset"
        return EvaluationSet(role, "", "", role, "", (), note)
    try:
        return _load(role, default, _kind(source, default), config)
    except UserError as error:
        note = f"{role}: {default} not scored: {error}"
        return EvaluationSet(role, default, "test", role, _kind(source, default), (), note)


def _load(role: Literal["test", "oos", "rnd"], dataset: str, kind: str, config: RunConfig) -> EvaluationSet:
    pairs = _sample(role, load_split(dataset, "test", replace(config.data, seed=PROMPT_SEED)), config)
    return EvaluationSet(role, dataset, "test", role, kind, pairs)


def _kind(source: str, target: str) -> str:
    """Kind of a listed shift; empty for an unlisted one."""
    name = target.removeprefix("genies:")
    return next((shift.kind for shift in shifts_from(source) if shift.target == name), "")


def distinct(pairs: Sequence[PreferencePair]) -> list[PreferencePair]:
    """Leave out every pair whose prompt, chosen and rejected response are those of an earlier pair."""
    found: dict[tuple[str, str, str], PreferencePair] = {}
    for pair in pairs:
        found.setdefault((pair.cluster, cluster_of(pair.chosen), cluster_of(pair.rejected)), pair)
    return list(found.values())


def _sample(name: str, pairs: Sequence[PreferencePair], config: RunConfig) -> tuple[PreferencePair, ...]:
    """Return the distinct pairs of at most ``eval.max_prompts`` prompts."""
    taken = take_prompts(pairs, config.eval.max_prompts, PROMPT_SEED)
    found = distinct(taken)
    if len(found) < len(taken):
        dataset, n = taken[0].source, len(taken) - len(found)
        log.info(f"{name}: {dataset} repeats {n} of its {len(taken)} pairs; each pair is scored once")
    return tuple(found)
