"""Studies as data: a mapping (a YAML file) that names methods, data sets, seeds and options; and its runs.

Keys: ``methods``, ``datasets``, ``seeds``, ``models``, ``suite``, ``sets``, ``strengths``, ``strength_sets``,
``options`` (fields of every run), ``product`` (values of fields, each with each), ``paired`` (value by value),
``groups`` (parts with keys of their own, one done after another), ``output_dir``, ``archive``, ``other_archives`` and
``about``.
"""

import itertools
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path
from typing import Any

from innerpo.config.run import RunConfig, default_run
from innerpo.config.yaml import nested, overlay, read_yaml
from innerpo.errors import UserError, near_matches
from innerpo.experiments.plan import Plan, PlannedRun, ordered
from innerpo.experiments.study_fields import LISTED, ROW, SCORING, VARIED, flat, keyed, without

log = logging.getLogger(__name__)

LISTS = tuple(LISTED)
FOLDERS = ("output_dir", "archive", "other_archives")
KEYS = (*LISTS, *SCORING, *VARIED, "options", "groups", *FOLDERS, "about")


@dataclass(frozen=True)
class StudyFile:
    """What a study file stands for: its runs in order, the folder in which they land, and that of their archive.

    ``foreign``: ids of the runs that are none of the file's own, which its archive does not get. ``other_archives``:
    those of other studies, which are only read. ``own_rows``: the runs have the rows that the file gives them, so that
    its archive may get them; not where options beside the file ask for more than some of its runs.
    """

    plan: Plan
    output_dir: Path
    archive: Path | None = None
    foreign: frozenset[str] = frozenset()
    other_archives: tuple[Path, ...] = ()
    own_rows: bool = True


def read_study_file(path: Path, changes: Mapping[str, Any] | None = None) -> StudyFile:
    """Read a study from YAML. ``changes``: a mapping of the same form that comes before what the file says.

    Raises UserError for a key, a name or a value that is none.
    """
    values = read_yaml(path)
    return study_of(values, str(path), changes, default=Path("outputs") / path.stem)


def study_of(
    values: Mapping[str, Any],
    where: str,
    changes: Mapping[str, Any] | None = None,
    default: Path = Path("outputs"),
) -> StudyFile:
    """Return the study that a mapping stands for. ``where`` names it in errors."""
    changes = dict(changes or {})
    _check_keys(values, KEYS, where)
    _check_keys(changes, KEYS, "options")
    changes = keyed(changes, "options")
    common = {key: value for key, value in values.items() if key not in ("groups", *FOLDERS, "about")}
    given = changes.get("groups") or values.get("groups")
    groups = _list(given or [{}], f"{where}.groups")
    runs: list[PlannedRun] = []
    for number, group in enumerate(groups):
        at = f"{where}.groups[{number + 1}]" if given else where
        if not isinstance(group, Mapping):
            raise UserError(f"{at} must be a mapping with methods, datasets, seeds, ..., got {group!r}")
        _check_keys(group, [key for key in KEYS if key not in ("groups", *FOLDERS)], at)
        said = _merged(keyed(common, where), keyed(group, at))
        more = {key: value for key, value in changes.items() if key != "groups"}
        runs += _runs(_merged(without(said, more, at), more), number, at)
    _check_rows(runs, where)
    folder = _path(changes, "output_dir", where) or _path(values, "output_dir", where) or default
    plan = ordered(runs)
    named, own = _path(changes, "archive", where), _path(values, "archive", where)
    foreign = frozenset[str]() if named or own is None else _foreign(values, changes, plan, where)
    archive = named or own
    others = _list(changes.get("other_archives", values.get("other_archives", [])), f"{where}.other_archives")
    read = tuple(Path(_folder(other, f"{where}.other_archives")).expanduser() for other in others)
    own_rows = bool(named) or not set(changes) - {*FOLDERS}
    kept = Path(archive).expanduser() if archive else None
    return StudyFile(plan, Path(folder).expanduser(), kept, foreign, read, own_rows)


def _path(values: Mapping[str, Any], key: str, where: str) -> str | Path | None:
    """A folder that a study names, if it names one. Raises UserError for what is no path."""
    value = values.get(key)
    return None if value is None else _folder(value, f"{where}.{key}") or None


def _folder(value: Any, where: str) -> str | Path:
    if not isinstance(value, str | Path):
        raise UserError(f"{where} must be the path of a folder, got {value!r}")
    return value


def _foreign(values: Mapping[str, Any], changes: Mapping[str, Any], plan: Plan, where: str) -> frozenset[str]:
    """The runs that options beside a file ask for: its archive is read for them too, but does not get them."""
    if not set(changes) - set(FOLDERS):
        return frozenset()
    alone = {key: value for key, value in values.items() if key not in FOLDERS}
    try:
        own = {run.id for run in study_of(alone, where).plan.runs}
    except UserError:  # the file alone is no study
        own = set()
    others = frozenset(run.id for run in plan.runs if run.id not in own)
    if others:
        log.warning(
            f"{len(others)} of {len(plan.runs)} runs are none of {where}: they are not kept in its archive "
            f"{values['archive']} (the option archive names another)"
        )
    return others


def _merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Two mappings as one: the second comes first, but ``options`` and ``product`` are joined."""
    found = {**first, **second}
    for key in ("options", "product"):
        if key in first and key in second:
            found[key] = {**flat(first[key], key), **flat(second[key], key)}
    return found


def _runs(values: Mapping[str, Any], group: int, where: str) -> list[PlannedRun]:
    """The runs of one group: seed by seed, so that an early stop leaves whole comparisons."""
    methods, datasets, seeds, models = (_list(values.get(key, []), f"{where}.{key}") for key in LISTS)
    for key, given in (("methods", methods), ("datasets", datasets)):
        if not given:
            raise UserError(f"{where} names no {key}; a study needs methods and datasets")
    fixed = flat(values.get("options", {}), f"{where}.options")
    fixed |= {field: values[key] for key, field in SCORING.items() if key in values}
    grid = _combinations(values, where)
    found = []
    for model, dataset, seed, method in itertools.product(models or [None], datasets, seeds or [None], methods):
        name, row, own, more = _method(method, where)
        listed = _data(dataset, where) | ({} if seed is None else {"training.seed": seed})
        listed |= {} if model is None else {"model.base_model": model}
        # What a method says of itself comes before what the study varies.
        for a, b in itertools.product(grid, more):
            varied = {field: value for field, value in a.items() if field not in own} | b
            twice = [field for field in (*a, *b) if field in (own if field in b else fixed)]
            if twice:
                raise UserError(f"{where}: {twice[0]} of {name} is varied, and has one value as well; drop one")
            options = fixed | own | varied
            twice = [field for field in (*listed, "method.name") if field in options]
            if twice:
                raise UserError(f"{where}: {twice[0]} of {name} is named by the lists of the study already; drop one")
            options |= listed
            config = overlay(default_run(name), nested(options), where)
            shown = _row(row, varied) if row else _row(name, own | varied)
            found.append(PlannedRun(config, shown, group))
    return found


def _check_rows(runs: Sequence[PlannedRun], where: str) -> None:
    """Raise UserError where two runs that differ would be one cell of a table."""
    known: dict[tuple[Any, ...], PlannedRun] = {}
    for run in runs:
        config = run.config
        cell = (run.row, config.data.dataset, config.training.seed, config.model.base_model, config.model.revision)
        if known.setdefault(cell, run).name != run.name:
            raise UserError(
                f"{where}: {known[cell].name} and {run.name} are different runs in one row of tables, {run.row!r}; "
                "name them apart by the key row of their methods"
            )


def _combinations(values: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """Every combination of the values that are varied, as fields by their dotted names."""
    product = flat(values.get("product", {}), f"{where}.product")
    axes = [[{name: value} for value in _list(given, f"{where}.product.{name}")] for name, given in product.items()]
    for number, paired in enumerate(_list(values.get("paired", []), f"{where}.paired")):
        at = f"{where}.paired[{number + 1}]"
        together = {name: _list(given, f"{at}.{name}") for name, given in flat(paired, at).items()}
        lengths = {name: len(given) for name, given in together.items()}
        if len(set(lengths.values())) > 1:
            counts = ", ".join(f"{name} has {n}" for name, n in lengths.items())
            raise UserError(f"{at}: paired values must be of one length: {counts}")
        axes.append([dict(zip(together, chosen, strict=True)) for chosen in zip(*together.values(), strict=True)])
    return [reduce(partial(_joined, where=where), parts, {}) for parts in itertools.product(*axes)]


def _joined(first: Mapping[str, Any], second: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Two choices of values as one. Raises UserError for a field in both."""
    twice = [field for field in second if field in first]
    if twice:
        raise UserError(f"{where}: {twice[0]} is varied twice; drop one")
    return {**first, **second}


def _method(entry: Any, where: str) -> tuple[str, str, dict[str, Any], list[dict[str, Any]]]:
    """Name, row, fields and varied values of an entry of ``methods``."""
    if isinstance(entry, str):
        return entry, "", {}, [{}]
    if not isinstance(entry, Mapping) or not isinstance(entry.get("method"), str):
        raise UserError(f"{where}.methods: give a method's name, or a mapping with the key method, not {entry!r}")
    own = flat({k: v for k, v in entry.items() if k not in ROW}, f"{where}.methods ({entry['method']})")
    return entry["method"], str(entry.get("row", "")), own, _combinations(entry, f"{where}.methods")


def _data(entry: Any, where: str) -> dict[str, Any]:
    """Fields of an entry of ``datasets``: ``source``, or ``source -> target``."""
    if not isinstance(entry, str) or not entry.strip():
        raise UserError(f"{where}.datasets: give a data set's name, or 'source -> target', not {entry!r}")
    source, arrow, target = (part.strip() for part in entry.partition("->"))
    return {"data.dataset": source} | ({"eval.oos_dataset": target} if arrow else {})


def _row(label: str, varied: Mapping[str, Any]) -> str:
    """A row of tables: the method, and the values of what the study varies."""
    shown = [f"{name.rpartition('.')[2]}={_text(value)}" for name, value in varied.items()]
    return f"{label} ({', '.join(shown)})" if shown else label


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _list(values: Any, where: str) -> Sequence[Any]:
    if isinstance(values, str) or not isinstance(values, Iterable) or isinstance(values, Mapping):
        raise UserError(f"{where} must be a list, got {values!r}")
    return list(values)


def _check_keys(values: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    for key in values:
        if key not in known:
            raise UserError(f"{where}: unknown key {key!r}{near_matches(str(key), known)}")


def planned(configs: Iterable[RunConfig]) -> Plan:
    """Return the plan of configs made by a program, each in the row that its options give it."""
    return ordered(PlannedRun(config) for config in configs)
