"""Fields of runs in a study: their dotted names, the keys that are short for some, and which of two values counts."""

from collections.abc import Mapping
from typing import Any

from innerpo.errors import FIELDS, UserError, near_matches

LISTED = {"methods": "method.name", "datasets": "data.dataset", "seeds": "training.seed", "models": "model.base_model"}
"""Keys with a list of values, a run for each, and the field that each is about."""
SCORING = {"suite": "eval.suite", "sets": "eval.sets", "strengths": "eval.strengths"} | {
    "strength_sets": "eval.strength_sets"
}
"""Keys that are short for a field of every run."""
OWNED = LISTED | SCORING
VARIED = ("product", "paired")
REFUSED = {
    "training.overwrite": "finished runs are kept; to do one again, delete its folder",
    "eval.capability": "it is for scoring a run again that is done",
}
"""Fields that a sweep would ignore, and what to do instead."""
ROW = ("method", "row", *VARIED)
"""Keys of an entry of ``methods`` that is a mapping; all others are fields by their dotted names."""


def flat(values: Any, where: str, prefix: str = "") -> dict[str, Any]:
    """Return sections of fields, or dotted names, as dotted names. Raises UserError for one that is no field."""
    if not isinstance(values, Mapping):
        raise UserError(f"{where} must be a mapping of fields, got {values!r}")
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if value and name in REFUSED:
            raise UserError(f"{where}: {name} is nothing that a study says: {REFUSED[name]}")
        if name in FIELDS and name != "output_dir":
            found[name] = value
        elif isinstance(value, Mapping) and any(field.startswith(f"{name}.") for field in FIELDS):
            found |= flat(value, where, f"{name}.")
        else:
            raise UserError(f"{where}: {name!r} is no field of a run{near_matches(name, FIELDS)}")
    return found


def keyed(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return a mapping with the fields that a key is about beneath that key: ``training.seed: 3`` is ``seeds: [3]``.

    Raises UserError where it gives both, since one of them would be ignored.
    """
    found = dict(values)
    for part in ("options", "product"):
        if part not in values:
            continue
        fields = flat(values[part], f"{where}.{part}")
        for key, field in OWNED.items():
            if field not in fields:
                continue
            if key in found:
                raise UserError(f"{where}: {field} and {key} say the same; give one of them")
            if key in SCORING and part == "product":  # several lists, tried one by one
                continue
            value = fields.pop(field)
            found[key] = value if key in SCORING or part == "product" else [value]
        found[part] = fields
    return found


def without(values: Mapping[str, Any], given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return what a file says less the fields that are given beside it, which come before it wherever it names them."""
    fields = {name for part in ("options", "product") if part in given for name in flat(given[part], part)}
    fields |= {name for entry in given.get("paired", ()) for name in flat(entry, "paired")}
    fields |= {field for key, field in OWNED.items() if key in given}
    found = {key: value for key, value in values.items() if OWNED.get(key) not in fields or key == "methods"}
    if "options" in found:
        found["options"] = _less(found["options"], fields, f"{where}.options")
    found = _less_varied(found, fields, where)
    if isinstance(found.get("methods"), list):
        found["methods"] = [_less_entry(entry, fields, where) for entry in found["methods"]]
    return found


def _less(values: Any, fields: set[str], where: str) -> dict[str, Any]:
    return {name: value for name, value in flat(values, where).items() if name not in fields}


def _less_varied(values: Mapping[str, Any], fields: set[str], where: str) -> dict[str, Any]:
    found = dict(values)
    if "product" in found:
        found["product"] = _less(found["product"], fields, f"{where}.product")
    if isinstance(found.get("paired"), list):
        left = [_less(entry, fields, f"{where}.paired") for entry in found["paired"]]
        found["paired"] = [entry for entry in left if entry]
    return found


def _less_entry(entry: Any, fields: set[str], where: str) -> Any:
    """An entry of ``methods``."""
    if not isinstance(entry, Mapping):
        return entry
    own = {key: value for key, value in entry.items() if key not in ROW}
    kept = {key: value for key, value in entry.items() if key in ROW}
    return _less_varied(kept, fields, f"{where}.methods") | _less(own, fields, f"{where}.methods")
