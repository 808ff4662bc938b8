"""GENIES: the pairs of a scored item, and where its folder is searched."""

import pytest

from innerpo.config.data import DataConfig
from innerpo.data.pairs import BadRows
from innerpo.data.shifts import genies_names
from innerpo.data.sources import ethics, genies, hub, load_pairs
from source_helpers import GOOD, ITEMS, SHARED, make_genies, needs_genies, one_line_error, pair


@pytest.fixture(autouse=True)
def _no_folders_from_outside(monkeypatch):
    monkeypatch.delenv("INNERPO_GENIES_DIR", raising=False)
    monkeypatch.delenv("INNERPO_ETHICS_DIR", raising=False)


def test_genies_pairs_the_best_with_every_strictly_worse_response(tmp_path):
    root, bad = make_genies(tmp_path, ITEMS), BadRows()
    for folder in (root, root / "distributions"):
        bad = BadRows()
        pairs = load_pairs("math", "train", DataConfig(genies_dir=folder), bad)
        assert [(p.id, p.chosen, p.rejected) for p in pairs] == [
            ("genies:math/train/0#0", "2", "3"),
            ("genies:math/train/0#3", "2", "4"),
            ("genies:math/train/1#2", "3", "4"),
        ]
    assert len(bad) == 2  # the published files' empty responses are left out and counted, whatever on_bad_row says
    assert pairs[0].source == "genies:math"
    assert pairs[0].cluster == pairs[1].cluster != pairs[2].cluster


def test_genies_folder_by_environment_and_its_faults(tmp_path, monkeypatch):
    monkeypatch.setenv("INNERPO_GENIES_DIR", str(make_genies(tmp_path, ITEMS)))
    assert load_pairs("math", "test", DataConfig())[0].split == "test"
    one_line_error(lambda: load_pairs("meth", "train", DataConfig()), "'math'")
    one_line_error(lambda: load_pairs("code", "train", DataConfig()), "GENIES has it, but")
    gone = DataConfig(genies_dir=tmp_path / "gone")
    one_line_error(lambda: load_pairs("math", "train", gone), "does not exist", "data.genies_dir")


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ({"responses": {}}, "no prompt"),
        ({"prompt": "a", "responses": {"b": 1.0}}, "fewer than two"),
        ({"prompt": "a", "responses": {"b": 1.0, "c": "x"}}, "not a number"),
        ({"prompt": "a", "responses": {"b": 1.0, "c": 1.0}}, "no response is better"),
    ],
)
def test_a_bad_genies_item_is_named(tmp_path, item, reason):
    root = make_genies(tmp_path, [ITEMS[0], item])
    one_line_error(lambda: load_pairs("math", "train", DataConfig(genies_dir=root)), "item 1", reason)
    bad = BadRows()
    assert len(load_pairs("math", "train", DataConfig(genies_dir=root, on_bad_row="skip"), bad)) == 2
    assert len(bad) == 1


def test_genies_without_a_folder_goes_to_the_hub_under_its_own_name(monkeypatch):
    calls = []
    monkeypatch.setattr(hub, "load_from", lambda *a, **k: calls.append((a[:4], k)) or [pair(GOOD)])
    load_pairs("math", "train", DataConfig())
    load_pairs("ethics:justice", "test", DataConfig())
    assert [c[0] for c in calls] == [
        (genies.HUB_NAME, "math", None, "train"),
        (ethics.HUB_NAME, "justice", None, "test"),
    ]
    assert calls[0][1]["source"] == "genies:math"
    assert "data.genies_dir" in calls[0][1]["hint"]


@needs_genies
def test_published_genies_sizes():
    data = DataConfig(genies_dir=SHARED / "genies")
    pairs = load_pairs("truthful_qa", "train", data)
    assert (len(pairs), len({p.cluster for p in pairs})) == (434 * 3, 434)
    bad = BadRows()
    easy = load_pairs("math_easy", "train", data, bad)
    assert (len(easy), len(bad)) == ((600 - 34) * 3, 34)
    there = {p.name for p in (SHARED / "genies" / "distributions").iterdir()}
    assert there <= set(genies_names())


def test_half_a_character_in_a_response_is_a_bad_row(tmp_path):
    """The other pairs of the item stay."""
    item = {"prompt": "a", "responses": {"good": 1.0, "cut \ud83d": 0.0, "bad": 0.0}}
    root = make_genies(tmp_path, [ITEMS[0], item])
    one_line_error(lambda: load_pairs("math", "train", DataConfig(genies_dir=root)), "item 1, response 1", "surrogate")
    bad = BadRows()
    found = load_pairs("math", "train", DataConfig(genies_dir=root, on_bad_row="skip"), bad)
    assert [pair.rejected for pair in found if pair.prompt == "a"] == ["bad"]
    assert sum("surrogate" in reason for reason in bad.reasons) == 1
