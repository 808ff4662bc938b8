"""Evaluation sets: named lists of pairs from one split of a data set, each with its role in a comparison."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import polars as pl

from innerpo.config.run import RunConfig
from innerpo.data.pairs import PreferencePair, choose_negatives, take_prompts
from innerpo.data.training_pairs import load_split, training_pairs
from innerpo.errors import UserError, near_matches
from innerpo.evaluation.facts import SETS
from innerpo.evaluation.overlap import NearDuplicate, near_duplicates
from innerpo.evaluation.suites import Role, Target, targets

log = logging.getLogger(__name__)

HEADLINE = ("train", "test", "oos", "rnd")
"""Names of the sets in the headline table, in its order."""

PROMPT_SEED = 0
"""Takes the place of ``data.seed`` in what is scored, so that runs of any data seed can be compared pair by pair."""


@dataclass(frozen=True)
class EvaluationSet:
    """Pairs to score under one name.

    ``kind`` is the kind of shift from the training set (difficulty, encoding, ...), empty where it is unknown.
    ``pairs`` is empty where nothing could be loaded; ``note`` then says why, and ``fault`` whether somebody asked for
    this set (``named``). ``n_seen`` counts the set's prompts that are training prompts, of all that are trained on and
    not only of those that the train set samples; ``near`` lists those that nearly repeat one (overlap.py), None: nobody
    looked. ``target_reference`` names the set that is like this one without its difficulty. ``every`` holds the pairs
    of the same prompts with all their worse responses, of which ``pairs`` are all or one a prompt.
    """

    name: str
    dataset: str
    split: str
    role: Role
    kind: str
    pairs: tuple[PreferencePair, ...]
    note: str = ""
    n_seen: int = 0
    near: tuple[NearDuplicate, ...] | None = None
    target_reference: str = ""
    fault: bool = False
    named: bool = False
    every: tuple[PreferencePair, ...] = ()

    @property
    def n_prompts(self) -> int:
        """Number of distinct prompts."""
        return len({p.cluster for p in self.pairs})

    @property
    def n_near(self) -> int:
        """Number of prompts that nearly repeat a training prompt; -1 where nobody looked."""
        return -1 if self.near is None else len({found.target for found in self.near})

    @property
    def source(self) -> str:
        """The data set as it is named beneath a table."""
        return f"{self.dataset} ({self.split}), {len(self.pairs)} pairs of {self.n_prompts} prompts"


def load_sets(
    config: RunConfig,
    trained: Sequence[PreferencePair] | None = None,
    strict: bool = True,
    own: RunConfig | None = None,
) -> list[EvaluationSet]:
    """Load train, test and the sets of ``eval.suite``. ``trained``: all training pairs, if they are loaded already.

    A data set that a suite lists and that cannot be loaded gives an empty set with a note: its accuracy is unknown,
    not zero. For one that the config names, or the training set's own, that is a UserError or, where not ``strict``,
    an empty set that says so in ``fault``. Raises UserError where nothing at all can be scored, where two sets have one
    name, and where ``eval.strength_sets`` names another set, unless it was taken over from the config ``own``.
    """
    source, asked = config.eval.train_dataset or config.data.dataset, config.eval.sets
    if source == config.data.dataset:
        trained = training_pairs(config) if trained is None else trained
    else:
        trained = load_split(source, "train", config.data)
    test = [Target("test", source, "test", named=True)] if not asked or "test" in asked else []
    sets = [_load(t, config, strict) for t in [*test, *targets(config)]]
    if not asked or "train" in asked:
        sets.insert(0, _with_pairs(EvaluationSet("train", source, "train", "train", "", ()), trained, config))
    _check_names_differ(sets)
    if own is None or config.eval.strength_sets != own.eval.strength_sets:
        _check_strength_sets(config.eval.strength_sets, sets)
    for found in sets:
        if found.note:
            log.info(found.note)
    if not any(s.pairs for s in sets):
        raise UserError(f"there is nothing to score: {'; '.join(s.note for s in sets)}")
    return [_with_overlap(s, trained) for s in sets]


def _check_strength_sets(names: Sequence[str], sets: Sequence[EvaluationSet]) -> None:
    """Raise UserError where ``eval.strength_sets`` names a set that is not among those scored."""
    known = [s.name for s in sets]
    if lacking := [name for name in names if name not in known]:
        raise UserError(f"eval.strength_sets: {lacking[0]!r} is not scored{near_matches(lacking[0], known)}")


def _check_names_differ(sets: Sequence[EvaluationSet]) -> None:
    """Raise UserError where two sets have one name: their pairs would be counted as those of one set."""
    first: dict[str, EvaluationSet] = {}
    for s in sets:
        if (other := first.setdefault(s.name, s)) is not s:
            both = " and ".join(f"{of.dataset} ({of.split})" for of in (other, s))
            raise UserError(
                f"two evaluation sets have the name {s.name!r}: {both}; give one another name in a suite file"
            )


def set_facts(sets: Sequence[EvaluationSet]) -> pl.DataFrame:
    """Return one row per set (facts.SETS)."""
    rows = [
        (s.name, s.dataset, s.split, s.role, s.kind, s.target_reference, len(s.pairs), s.n_prompts, s.n_seen, s.n_near)
        for s in sets
    ]
    notes = [s.note for s in sets]
    return pl.DataFrame([(*row, note) for row, note in zip(rows, notes, strict=True)], SETS, orient="row")


def texts_of(sets: Sequence[EvaluationSet], n: int = 4) -> list[str]:
    """Return the first ``n`` prompts of each set with their chosen responses, those that are plain text."""
    pairs = [pair for s in sets for pair in s.pairs[:n]]
    return [p.prompt + p.chosen for p in pairs if isinstance(p.prompt, str) and isinstance(p.chosen, str)]


def _with_overlap(found: EvaluationSet, trained: Sequence[PreferencePair]) -> EvaluationSet:
    """Count the set's prompts that were trained on, and list those that nearly repeat a training prompt."""
    own, theirs = ({pair.cluster: pair for pair in pairs} for pairs in (found.pairs, trained))
    seen = len(own.keys() & theirs.keys())
    if found.role == "train":
        return replace(found, n_seen=seen)
    near = near_duplicates([_text(pair) for pair in theirs.values()], [_text(pair) for pair in own.values()])
    return replace(found, n_seen=seen, near=tuple(near))


def _text(pair: PreferencePair) -> str:
    prompt = pair.prompt
    return prompt if isinstance(prompt, str) else "\n".join(message["content"] for message in prompt)


def _load(target: Target, config: RunConfig, strict: bool) -> EvaluationSet:
    split = target.split if target.dataset else ""
    empty = EvaluationSet(
        target.name, target.dataset, split, target.role, target.kind, (), target.note, named=target.named
    )
    if not target.dataset:
        return empty
    try:
        every = load_split(target.dataset, target.split, replace(config.data, seed=PROMPT_SEED))
        if not every:
            raise UserError(f"its split {target.split} holds no pair")
    except UserError as error:
        if target.named and strict:
            raise
        note = f"{target.name}: {target.dataset} not scored: {error}"
        return replace(empty, note=note, fault=target.named)
    return _with_pairs(replace(empty, target_reference=target.target_reference), every, config)


def _with_pairs(empty: EvaluationSet, pairs: Sequence[PreferencePair], config: RunConfig) -> EvaluationSet:
    """Give a set the pairs of at most ``eval.max_prompts`` prompts, with every worse response or with one."""
    every = take_prompts(pairs, config.eval.max_prompts, PROMPT_SEED)
    return replace(empty, every=tuple(every), pairs=tuple(choose_negatives(every, config.eval.negatives, PROMPT_SEED)))
