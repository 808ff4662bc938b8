"""Data set names: what each means, and the error for a wrong one."""

import json
from dataclasses import replace

import pytest

from innerpo.config.data import DataConfig
from innerpo.data.pairs import BadRows
from innerpo.data.sources import SOURCES, hub, load_pairs, parse_name
from source_helpers import BLUE, GOOD, GREEN, USER, one_line_error, pair


@pytest.fixture(autouse=True)
def _no_folders_from_outside(monkeypatch):
    monkeypatch.delenv("INNERPO_GENIES_DIR", raising=False)
    monkeypatch.delenv("INNERPO_ETHICS_DIR", raising=False)


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("math", ("genies", "math")),
        ("genies:math", ("genies", "math")),
        ("no_such_name", ("genies", "no_such_name")),
        ("ethics:justice", ("ethics", "justice")),
        ("embedded:compare", ("embedded", "compare")),
        ("pairs.jsonl", ("files", "pairs.jsonl")),
        ("./pairs", ("files", "./pairs")),
        ("files:odd/name", ("files", "odd/name")),
        ("a/b", ("hub", "a/b")),
        ("a/b:c:d", ("hub", "a/b:c:d")),
        ("hub:a/b", ("hub", "a/b")),
    ],
)
def test_a_name_says_its_source(name, meaning):
    assert parse_name(name) == meaning


def test_a_genies_name_comes_before_a_folder_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("code", "my_pairs"):
        (tmp_path / name).mkdir()
    assert parse_name("code") == ("genies", "code")
    assert parse_name("my_pairs") == ("files", "my_pairs")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("maht_easy", "'math_easy'"),
        ("genies:truthfulqa", "'truthful_qa'"),
        ("ethics:justise", "'justice'"),
        ("embedded:comprae", "'compare'"),
        ("embeded:compare", "'embedded'"),
        ("", "no name"),
    ],
)
def test_a_wrong_name_fails_with_the_near_matches_and_no_network(name, near, monkeypatch):
    monkeypatch.setattr(hub, "load_from", lambda *a, **k: pytest.fail("went to the network"))
    one_line_error(lambda: load_pairs(name, "train", DataConfig()), near)


def test_an_outsider_adds_a_source_by_putting_a_function_in_the_table(monkeypatch):
    found = [pair(GOOD)]
    monkeypatch.setitem(SOURCES, "mine", lambda name, split, data, bad: found)
    assert load_pairs("mine:x", "train", DataConfig()) == found


def test_a_repeated_pair_is_loaded_once_and_reported(monkeypatch):
    rows = [GOOD, GOOD | {"rejected": " red"}, GOOD, GOOD | {"chosen": " green", "rejected": " blue"}]
    rows += [{"chosen": [USER, BLUE], "rejected": [USER, GREEN]}] * 2
    found = [replace(pair(row), id=str(i)) for i, row in enumerate(rows)]
    monkeypatch.setitem(SOURCES, "mine", lambda name, split, data, bad: found)
    bad = BadRows()
    assert [p.id for p in load_pairs("mine:x", "train", DataConfig(), bad)] == ["0", "1", "3", "4"]
    assert [r.partition(" (")[0] for r in bad.reasons] == ["2: repeats 0", "5: repeats 4"]


@pytest.mark.parametrize("column", ["prompt", "chosen", "rejected"])
def test_half_a_character_is_a_bad_row(tmp_path, column):
    """JSON can hold one half of a surrogate pair, as a text has that was cut within an emoji; nothing can encode it."""
    rows = [GOOD, GOOD | {"prompt": "Other: ", column: "cut \ud83d"}]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row | {"split": "train"}) + "\n" for row in rows))
    one_line_error(lambda: load_pairs(str(path), "train", DataConfig()), f"{column} holds half of a surrogate pair")
    bad = BadRows()
    assert len(load_pairs(str(path), "train", DataConfig(on_bad_row="skip"), bad)) == 1
    assert len(bad) == 1


def test_a_row_of_a_csv_with_more_cells_than_the_header_is_bad(tmp_path):
    """An unquoted comma would shift the cells: the rejected response would stand for the chosen one."""
    path = tmp_path / "pairs.csv"
    path.write_text("prompt,chosen,rejected,split\nq0,a,b,train\nq1,well, yes,no,train\nq2,c,d,train,\n")
    one_line_error(lambda: load_pairs(str(path), "train", DataConfig()), "line 3: has more cells than the header", "4")
    bad = BadRows()
    found = load_pairs(str(path), "train", DataConfig(on_bad_row="skip"), bad)
    assert [(pair.prompt, pair.chosen) for pair in found] == [("q0", "a"), ("q2", "c")]  # an empty cell is no cell
    assert len(bad) == 1


def test_a_wrong_split_and_an_empty_result_are_errors(monkeypatch):
    one_line_error(lambda: load_pairs("embedded:compare", "dev", DataConfig()), "'dev'", "train")
    monkeypatch.setitem(SOURCES, "mine", lambda name, split, data, bad: [])
    one_line_error(lambda: load_pairs("mine:x", "test", DataConfig()), "mine:x", "no usable pair")
