"""The four columns of the headline table: which data set and split each one is, and its pairs."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from innerpo.config.run import RunConfig
from innerpo.data.pairs import BadRows, PreferencePair, take_prompts
from innerpo.data.shifts import default_target
from innerpo.data.sources import load_pairs
from innerpo.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Column:
    """Pairs to score. ``pairs`` is empty where ``note`` says why nothing could be scored."""

    name: str
    dataset: str
    split: str
    pairs: tuple[PreferencePair, ...]
    note: str = ""

    @property
    def source(self) -> str:
        """The data set as it is named beneath a table."""
        prompts = len({p.cluster for p in self.pairs})
        return f"{self.dataset} ({self.split}), {len(self.pairs)} pairs of {prompts} prompts"


def load_columns(config: RunConfig, trained: Sequence[PreferencePair] | None = None) -> list[Column]:
    """Load the pairs of train, test, oos and rnd; ``trained`` are those of the training set, where they are at hand.

    Raises UserError where a data set that was named, or the training set's own, cannot be had. A default target or
    control that is not at hand leaves its column empty and says so; unknown is not zero.
    """
    source = config.eval.train_dataset or config.data.dataset
    target = config.eval.oos_dataset or default_target(source)
    if trained is None or source != config.data.dataset:
        train = _column("train", source, "train", config)
    else:
        train = Column("train", source, "train", _sample(trained, config))
    columns = [
        train,
        _column("test", source, "test", config),
        _optional("oos", config.eval.oos_dataset, target, config),
        _optional("rnd", config.eval.rnd_dataset, default_control(source, target), config),
    ]
    for column in columns:
        if column.note:
            log.info(column.note)
    return columns


def default_control(source: str, target: str | None) -> str | None:
    """An unrelated data set: the first of the usual ones that is neither trained on nor the target, nor of its kind."""
    usual = ("ethics:justice", "embedded:control")
    kinds = {name.split(":")[0] for name in (source, target) if name and name.startswith("ethics:")}
    order = reversed(usual) if source.startswith("embedded:") else usual
    free = (name for name in order if name not in (source, target) and name.split(":")[0] not in kinds)
    return next(free, None)


def _optional(name: str, named: str | None, default: str | None, config: RunConfig) -> Column:
    """The column of a data set that was named (its absence is an error) or of a default (its absence is a note)."""
    if named is not None:
        return _column(name, named, "test", config)
    if default is None:
        source, what = config.eval.train_dataset or config.data.dataset, "shift" if name == "oos" else "control"
        return Column(
            name, "", "", (), f"{name}: no {what} is listed for {source}; name one with --eval.{name}_dataset"
        )
    try:
        return _column(name, default, "test", config)
    except UserError as error:
        return Column(name, default, "test", (), f"{name}: {default} not scored: {error}")


def training_pairs(config: RunConfig) -> list[PreferencePair]:
    """All pairs of the prompts that are trained on (before one negative is chosen)."""
    bad = BadRows()
    pairs = load_pairs(config.data.dataset, "train", config.data, bad)
    _report(bad, config.data.dataset)
    return take_prompts(pairs, config.data.max_train_prompts, config.data.seed)


def _column(name: str, dataset: str, split: str, config: RunConfig) -> Column:
    if name == "train" and dataset == config.data.dataset:
        pairs = training_pairs(config)
    else:
        bad = BadRows()
        pairs = load_pairs(dataset, split, config.data, bad)
        _report(bad, dataset)
    return Column(name, dataset, split, _sample(pairs, config))


def _sample(pairs: Sequence[PreferencePair], config: RunConfig) -> tuple[PreferencePair, ...]:
    return tuple(take_prompts(pairs, config.eval.max_prompts, config.data.seed))


def _report(bad: BadRows, dataset: str) -> None:
    if len(bad):
        log.info(f"{dataset}: left out {len(bad)} rows that cannot be used, the first: {bad.reasons[0]}")
