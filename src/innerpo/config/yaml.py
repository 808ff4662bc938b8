"""Configs from YAML: presets, files and saved runs. Command line > file > preset > default."""

import dataclasses
import re
import types
import typing
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml

from innerpo.config.combined import read_combined
from innerpo.config.run import RunConfig, default_run
from innerpo.errors import UserError, near_matches, one_line

T = TypeVar("T")


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads ``1e-5`` (no dot) as a string; here it is the number that it looks like."""


class _Dumper(yaml.SafeDumper):
    """Quotes the text ``1e-5`` (a revision may look so), so that it is read back as text."""


for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?[eE][-+]?[0-9]+$|^[-+]?\.[0-9_]+[eE][-+]?[0-9]+$"),
        list("-+0123456789."),
    )


def preset_dir() -> Path:
    """Folder of the presets: inside an installed wheel, or ``configs/`` of a checkout."""
    inside = Path(str(resources.files("innerpo"))) / "configs"
    return inside if inside.is_dir() else Path(__file__).parents[3] / "configs"


def preset_path(name: str) -> Path:
    """Path of a named preset; a wrong name fails with the near matches."""
    known = {p.stem: p for p in preset_dir().glob("*.yaml")}
    if name not in known:
        raise UserError(f"unknown preset {name!r}{near_matches(name, known)}")
    return known[name]


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping; errors name the file and the line."""
    try:
        found = yaml.load(path.read_text(), Loader=_Loader)
    except OSError as error:
        raise UserError(f"cannot read config file {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {one_line(error)}") from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise UserError(f"{path} must hold a mapping (section: {{field: value}}), found {type(found).__name__}")
    return found


def as_yaml(values: dict[str, Any]) -> str:
    """Return YAML that ``read_yaml`` reads back as the same values, in the order given."""
    return str(yaml.dump(values, Dumper=_Dumper, sort_keys=False))


def read_run_config(folder: Path) -> RunConfig | None:
    """Return the config that a run was made with, or None for a folder that innerpo did not make."""
    path = folder / "config.yaml"
    if not path.is_file():
        return None
    values = without_identity(read_yaml(path))
    method = values.get("method")
    name = method.get("name", "innerpo") if isinstance(method, dict) else "innerpo"
    return overlay(default_run(name), values, str(path))


def config_of_folder(folder: Path) -> RunConfig:
    """Return a run's own config; for a peft adapter made elsewhere, the defaults with the base model that it names.

    For a combined adapter, the defaults with the data and the base model of the runs that it is made of, where known.
    """
    own, combined = read_run_config(folder), read_combined(folder)
    if own is not None:
        return own
    if combined is not None and (combined.data or combined.model):
        known = {name: held for name, held in (("data", combined.data), ("model", combined.model)) if held}
        return overlay(default_run("dpo"), known, str(folder))
    adapter = folder / "adapter_config.json"
    if not adapter.is_file():
        return RunConfig()
    named = read_yaml(adapter).get("base_model_name_or_path")  # JSON is YAML
    config = default_run("dpo")
    return dataclasses.replace(config, model=dataclasses.replace(config.model, base_model=named)) if named else config


def trusted_config(folder: Path, trusted: bool) -> RunConfig:
    """Return the config of a folder whose base model is to be loaded.

    Raises UserError where it asks to run code that comes with the model, unless the caller, not the folder, allows it
    (``trusted``): a folder may come from anywhere.
    """
    config = config_of_folder(folder)
    if config.model.trust_remote_code and not trusted:
        raise UserError(
            f"the config of {folder} runs code of {config.model.base_model}; read it, then pass trust_remote_code=True"
        )
    return config


def check_training_set(folder: Path, named: str | None) -> None:
    """Raise UserError where a folder is an adapter or a model made elsewhere and nobody named its training set."""
    combined = read_combined(folder)
    known = read_run_config(folder) is not None or (combined is not None and bool(combined.data))
    adapter, whole = (folder / "adapter_config.json").is_file(), any(folder.glob("model*.safetensors"))
    if named is None and not known and (adapter or whole):
        base = "" if adapter else ", and its base by model.base_model"
        raise UserError(
            f"{folder} was not trained by innerpo, so its training set is unknown; name it by eval.train_dataset{base}"
        )


def without_identity(values: dict[str, Any]) -> dict[str, Any]:
    """Drop what a run's own config.yaml holds beyond options: it is a config file too."""
    return {k: v for k, v in values.items() if k not in ("run_id", "inputs")}


def nested(options: dict[str, Any]) -> dict[str, Any]:
    """Return ``{"training.lr": 1e-5}`` as ``{"training": {"lr": 1e-5}}``; tuples become lists, as YAML has them."""
    found: dict[str, Any] = {}
    for name, value in options.items():
        *sections, field = name.split(".")
        inner = found
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[field] = list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
    return found


def overlay(base: T, values: dict[str, Any], where: str) -> T:
    """Return the record with the given fields replaced, recursively, each checked against its type."""
    hints = typing.get_type_hints(type(base))
    known = {f.name for f in dataclasses.fields(base)}  # type: ignore[arg-type]
    changes: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            raise UserError(f"{where}: unknown key {key!r}{near_matches(str(key), known)}")
        current = getattr(base, key)
        if dataclasses.is_dataclass(current):
            if not isinstance(value, dict):
                raise UserError(f"{where}.{key} must be a mapping, got {value!r}")
            changes[key] = overlay(current, value, f"{where}.{key}")
        else:
            changes[key] = _coerce(value, hints[key], f"{where}.{key}")
    return dataclasses.replace(base, **changes)  # type: ignore[type-var]


def _coerce(value: Any, hint: Any, where: str) -> Any:
    """Return ``value`` as the type that the field declares, or say what would be right."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _coerce(value, next(a for a in args if a is not type(None)), where)
    if origin is typing.Literal:
        if isinstance(value, bool) and {"on", "off"} <= {*args}:  # which YAML reads as booleans
            value = "on" if value else "off"
        if value not in args:
            raise UserError(f"{where}: {value!r} is not one of {', '.join(map(str, args))}")
        return value
    if origin is tuple and isinstance(value, list):
        return tuple(_coerce(v, args[0], where) for v in value)
    if origin is dict and isinstance(value, dict):
        return {str(k): _coerce(v, args[1], f"{where}.{k}") for k, v in value.items()}
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if hint is float and is_number:
        return float(value)
    if hint is int and is_number and float(value).is_integer():
        return int(value)
    if hint is bool and isinstance(value, bool):
        return value
    if hint is str and (isinstance(value, str) or is_number):
        return str(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    raise UserError(f"{where}: {value!r} is not a {getattr(hint, '__name__', hint)}")
