"""The four columns of the headline table: which data set and split each one is, and its pairs."""

from dataclasses import dataclass

from innerpo.config import RunConfig
from innerpo.console import say
from innerpo.data.pairs import BadRows, PreferencePair, take_prompts
from innerpo.data.shifts import default_target
from innerpo.data.sources import load_pairs
from innerpo.errors import UserError


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


def load_columns(config: RunConfig) -> list[Column]:
    """Load the pairs of train, test, oos and rnd.

    Raises UserError where a data set that was named, or the training set's own, cannot be had. Without a control data
    set at hand the rnd column stays empty and says so; unknown is not zero.
    """
    source = config.eval.train_dataset or config.data.dataset
    control = "embedded:control" if source.startswith("embedded:") else "ethics:justice"
    columns = [_column("train", source, "train", config), _column("test", source, "test", config)]
    target = config.eval.oos_dataset or default_target(source)
    if target is None:
        columns.append(
            Column("oos", "none", "", (), f"oos: no shift is listed for {source}; name one: --eval.oos-dataset")
        )
    else:
        columns.append(_column("oos", target, "test", config))
    try:
        columns.append(_column("rnd", config.eval.rnd_dataset or control, "test", config))
    except UserError as error:
        if config.eval.rnd_dataset is not None:
            raise
        columns.append(Column("rnd", control, "test", (), f"rnd: not scored, {error}"))
    for column in columns:
        if column.note:
            say(column.note)
    return columns


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
    kept = take_prompts(pairs, config.eval.max_prompts, config.data.seed)
    return Column(name, dataset, split, tuple(kept))


def _report(bad: BadRows, dataset: str) -> None:
    if len(bad):
        say(f"{dataset}: left out {len(bad)} bad rows, the first: {bad.reasons[0]}")
