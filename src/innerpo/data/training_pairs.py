"""The pairs that a run trains on, and the loading of a split with a line in the log about rows that were left out."""

import logging

from innerpo.config.data import DataConfig
from innerpo.config.run import RunConfig
from innerpo.data.pairs import BadRows, PreferencePair, take_prompts
from innerpo.data.sources import load_pairs

log = logging.getLogger(__name__)


def training_pairs(config: RunConfig) -> list[PreferencePair]:
    """Return all pairs of the prompts that are trained on (before one negative is chosen).

    Raises UserError where the data set cannot be loaded.
    """
    pairs = load_split(config.data.dataset, "train", config.data)
    return take_prompts(pairs, config.data.max_train_prompts, config.data.seed)


def load_split(dataset: str, split: str, data: DataConfig) -> list[PreferencePair]:
    """Return all pairs of a split; rows are counted in the log with the first reason."""
    bad = BadRows()
    pairs = load_pairs(dataset, split, data, bad)
    if len(bad):
        log.info(f"{dataset}: left out {len(bad)} rows, the first: {bad.reasons[0]}")
    return pairs
