"""What leaves this machine: records without its paths, and a last look for paths and secrets that must not leave."""

import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from innerpo.errors import UserError

_TOKENS = re.compile(rb"\bhf_[A-Za-z0-9]{30,}\b|\bsk-[A-Za-z0-9_-]{24,}\b|\bgh[pousr]_[A-Za-z0-9]{30,}\b")
_SECRET = re.compile(r"(TOKEN|SECRET|PASSWORD|API_KEY|ACCESS_KEY)(_ID)?$")
_SHORTEST_SECRET = 12
"""Values of environment variables below this length are no secrets (``HF_TOKEN=1``), and would be found anywhere."""
_KIND = re.compile(r"[A-Za-z_]+:(?!//)")
_UNREAD = (".safetensors", "tokenizer.json")
"""Weights, and a vocabulary in which any word may stand: their names are the writer's own, their content is numbers."""


@dataclass(frozen=True)
class Cleaner:
    """Replaces the names of places on this machine; ``names``: each to what stands in its place.

    ``cuts``: other absolute paths are cut to their last part. Not in a model's own files, where ``/think`` is a token.
    """

    names: Mapping[str, str]
    cuts: bool = True

    def of_model(self) -> "Cleaner":
        """For a model's own files: whole paths alone; a folder's name may be a word of a config (``llama``)."""
        return Cleaner({place: name for place, name in self.names.items() if is_place(place)}, cuts=False)

    def text(self, text: str) -> str:
        """Return a text with every known place replaced."""
        for place in sorted(self.names, key=len, reverse=True):
            text = text.replace(place, self.names[place])
        return text

    def value(self, value: Any) -> Any:
        """Return plain data with every known place replaced, and (``cuts``) other absolute paths cut."""
        if isinstance(value, dict):
            return {self.text(str(k)): self.value(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(v) for v in value]
        if not isinstance(value, str):
            return value
        text = self.text(value)
        if not self.cuts:
            return text
        kind, rest = _split(text)
        return kind + Path(rest).name if is_place(text) else text

    def frame(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return a data frame whose texts have every known place replaced."""
        texts = [name for name, kind in frame.schema.items() if kind == pl.String]
        return frame.with_columns(
            pl.col(name).replace({v: self.value(v) for v in frame[name].unique() if v is not None}) for name in texts
        )


def last_parts(places: Iterable[str]) -> dict[str, str]:
    """Return each of some paths to its last part, with a number where another one has it: two sets are not one then."""
    found: dict[str, str] = {}
    for place in dict.fromkeys(places):
        path, number = Path(place), 1
        name = path.name
        while name in found.values():
            number += 1
            name = f"{path.stem}-{number}{path.suffix}"
        found[place] = name
    return found


def is_place(text: str) -> bool:
    """Whether a text is an absolute path or one beneath a home folder, also behind ``files:`` or another kind."""
    rest = _split(text)[1]
    return "\n" not in text and len(rest) > 1 and (rest.startswith("~") or Path(rest).is_absolute())


def _split(text: str) -> tuple[str, str]:
    """The kind of a data set (``files:``) and its name; of an address (``https://``) nothing is a kind."""
    found = _KIND.match(text)
    return (found[0], text[found.end() :]) if found else ("", text)


def places_in(value: Any) -> Iterator[str]:
    """Yield every absolute path that stands in plain data."""
    if isinstance(value, dict):
        for inner in value.values():
            yield from places_in(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from places_in(inner)
    elif isinstance(value, str) and is_place(value):
        yield _split(value)[1]


def check_clean(files: Mapping[str, Path], also: Iterable[Path] = (), source: Path | None = None) -> None:
    """Raise UserError where a file to be uploaded holds a path of this machine or a secret. ``source``: its folder.

    Looked for are the home folder, the working folder, the folder for temporary files and the folders ``also``; tokens
    by their form; and the values of environment variables that are named like secrets.
    """
    folders = {Path.home(), Path.cwd(), Path(tempfile.gettempdir()), *(path.resolve() for path in also)}
    names = [f"{folder}{os.sep}" for folder in folders if len(folder.parts) > 1]
    places = [form.encode() for name in names for form in {name, json.dumps(name)[1:-1]}]  # JSON escapes some letters
    secrets = [v.encode() for k, v in os.environ.items() if _SECRET.search(k) and len(v) >= _SHORTEST_SECRET]
    for name, path in files.items():
        if name.endswith(_UNREAD):
            continue
        content, where = _content(path), path if source is None else source
        if found := [place for place in places if place in content]:
            said = f"{name} would be uploaded with a path of this machine ({found[0].decode()}...)"
            raise UserError(f"{said}; remove it from {where}")
        if _TOKENS.search(content) or any(secret in content for secret in secrets):
            raise UserError(f"{name} would be uploaded with what looks like an access token; remove it from {where}")


def _content(path: Path) -> bytes:
    """The bytes of a file; of a parquet file, which is compressed, those of its texts."""
    if path.suffix != ".parquet":
        return path.read_bytes()
    frame = pl.read_parquet(path)
    texts = [name for name, kind in frame.schema.items() if kind == pl.String]
    return "\n".join(v for name in texts for v in frame[name].unique() if v is not None).encode()
