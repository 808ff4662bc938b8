"""Helpers of the tests of sources: rows, files made from them, and a check that an error is one line."""

import json
from pathlib import Path

import pytest

from innerpo.config.data import DataConfig
from innerpo.data.sources.parse import pair_from_row
from innerpo.errors import UserError

SHARED = Path(__file__).parents[1].parent / "shared" / "data"
needs_genies = pytest.mark.skipif(not (SHARED / "genies").is_dir(), reason="no ../shared/data/genies")
needs_ethics = pytest.mark.skipif(not (SHARED / "ethics").is_dir(), reason="no ../shared/data/ethics")

GOOD = {"prompt": "Sky?", "chosen": " blue", "rejected": " green"}
USER = {"role": "user", "content": "Sky?"}
BLUE, GREEN = ({"role": "assistant", "content": c} for c in ("blue", "green"))
ITEMS = [
    {"prompt": "1+1\n", "responses": {"3": 0.0, "2": 1.0, "two": 1.0, "4": 0.5}},
    {"prompt": "1+2\n", "responses": {"": 0.0, "3": 1.0, "4": 0.0}},
    {"prompt": "1+3\n", "responses": {"": 1.0, "3": 0.0}},
]
"""A GENIES file in small: a tie for the best, an empty worse response, an empty best response."""


def one_line_error(call, *parts):
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


def pair(row):
    return pair_from_row(row, id="1", source="s", split="train")


def write_jsonl(path, rows):
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return str(path)


def make_genies(tmp_path, items, name="math"):
    folder = tmp_path / "distributions" / name
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        (folder / f"{split}.json").write_text(json.dumps(items))
    return tmp_path


def make_ethics(tmp_path, name, text):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return DataConfig(ethics_dir=tmp_path)
