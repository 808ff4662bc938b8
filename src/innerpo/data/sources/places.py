"""Where data sets are: on the Hub or not, and whether two names mean one."""

from pathlib import Path

from innerpo.data.shifts import genies_names
from innerpo.data.sources import parse_name
from innerpo.data.sources.ethics import HUB_NAME as ETHICS
from innerpo.data.sources.genies import HUB_NAME as GENIES
from innerpo.errors import UserError

DEFAULT = "default"
"""Name that the Hub gives to the configuration of a repository that has one alone."""


def on_hub(dataset: str) -> tuple[str, str] | None:
    """Return repository and configuration of a data set on the Hub; None for one that is not there."""
    try:
        kind, rest = parse_name(dataset)
    except UserError:
        return None
    if kind == "ethics" or (kind == "genies" and rest in genies_names()):
        return (GENIES if kind == "genies" else ETHICS), rest
    if kind != "hub":
        return None
    path, _, more = rest.partition(":")
    return path, more.partition(":")[0] or DEFAULT


def same_data(a: str, b: str) -> bool:
    """Whether two names mean one data set, however they are written: a file, a repository of the Hub, or a name."""
    ours, theirs = on_hub(a), on_hub(b)
    if ours is not None and theirs is not None:
        return ours[0] == theirs[0] and (ours[1] == theirs[1] or DEFAULT in (ours[1], theirs[1]))
    return _place(a) == _place(b)


def _place(name: str) -> tuple[str, str]:
    kind, rest = parse_name(name)
    return kind, str(Path(rest).expanduser().resolve()) if kind == "files" else rest.partition("(")[0]
