"""Any preference data set of the Hugging Face Hub: ``owner/name``, ``owner/name:config``, ``owner/name:config:split``.

Which split is train and which test:

* No split named: ``train``, and ``test`` or else ``validation`` (logged, and named in each pair's id).
* A split whose name contains "train" (``train_prefs``): that one, and the split of the same name with "test" or
  "validation" instead of "train". If there is none, its prompts are divided as those of a single file are (90 %
  train).
* Any other split (``test``): all of it for scoring, none for training.
"""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from innerpo.config.data import DataConfig
from innerpo.data.pairs import BadRows, PreferencePair
from innerpo.data.sources.parse import BadRowError, divided, leave_out, pair_from_row
from innerpo.errors import UserError, one_line

log = logging.getLogger(__name__)
HINT = "or save its rows as jsonl and name that file"


def load(name: str, split: str, data: DataConfig, bad: BadRows) -> list[PreferencePair]:
    """Return the pairs of ``owner/name[:config[:split]]``."""
    parts = name.split(":")
    if len(parts) > 3 or parts[0].count("/") != 1:
        raise UserError(
            f"{name!r} names no Hub data set: write owner/name, owner/name:config or owner/name:config:split"
        )
    path, config, named = [*parts, "", ""][:3]
    return load_from(path, config or None, named or None, split, data, bad, source=name, hint=HINT)


def load_from(
    path: str,
    config: str | None,
    named: str | None,
    split: str,
    data: DataConfig,
    bad: BadRows,
    *,
    source: str,
    hint: str,
) -> list[PreferencePair]:
    """Return the pairs of a Hub repository or of a local folder laid out like one."""
    title = path + (f":{config}" if config else "")
    with _one_line(title, hint):
        from datasets import get_dataset_split_names

        there = list(get_dataset_split_names(path, config))
    chosen, divide = choose_split(title, there, named, split)
    with _one_line(f"{title}, split {chosen}", hint):
        from datasets import load_dataset

        rows = load_dataset(path, config, split=chosen)
    pairs = list(_pairs(rows, chosen, source, split, data, bad))
    return [p for p in pairs if divided(p) == split] if divide else pairs


def choose_split(title: str, there: list[str], named: str | None, split: str) -> tuple[str, bool]:
    """Return the split to read for "train" or "test", and whether its prompts must be divided into both."""
    base = named or "train"
    if base not in there and (named or split == "train"):
        raise UserError(f"{title} has no split {base!r}; it has {', '.join(there) or 'none'}")
    if named and "train" not in named:
        if split == "train":
            raise UserError(f"{title}:{named} names a split to score on; to train, name one with 'train' in it")
        return named, False
    siblings = [base.replace("train", other) for other in ("test", "validation")]
    test = next((s for s in siblings if s in there), None)
    if split == "train":
        return base, named is not None and test is None
    if test is None and named is None:
        raise UserError(
            f"{title} has no test or validation split; it has {', '.join(there) or 'none'} "
            "(owner/name:config:split names one split, whose prompts are then divided 90:10)"
        )
    if test is None:
        return base, True
    if test == siblings[1]:
        log.warning("%s has no split %r; its %r serves as the test split", title, siblings[0], test)
    return test, False


def _pairs(rows: Any, read: str, source: str, split: str, data: DataConfig, bad: BadRows) -> Iterator[PreferencePair]:
    row: Mapping[str, Any]
    for i, row in enumerate(rows):
        try:
            yield pair_from_row(row, f"{source}/{read}/{i}", source, split)
        except BadRowError as e:
            leave_out(f"{source} {read} row {i}", str(e), data.on_bad_row, bad)


@contextlib.contextmanager
def _one_line(tried: str, hint: str) -> Iterator[None]:
    """Turn any failure of the Hub (no network, no such repository or config) into a UserError of one line."""
    # Without a network its retries would otherwise log eleven lines before the error.
    from huggingface_hub.utils import logging as hub_logging

    level = hub_logging.get_verbosity()
    hub_logging.set_verbosity(logging.ERROR)
    try:
        yield
    except Exception as e:
        said = one_line(e, 200)
        raise UserError(
            f"the Hub data set {tried} could not be loaded ({said}); check its name and the network, {hint}"
        ) from e
    finally:
        hub_logging.set_verbosity(level)
