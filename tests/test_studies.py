"""Studies: their stored tables are those of their stored scores; what is stored names no machine."""

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from innerpo.config.labels import group_label
from innerpo.evaluation.statistics import UNKNOWN
from innerpo.evaluation.study import read_study
from studies import tables
from studies.cue import labels
from studies.cue import run as cue
from studies.cue import table as cue_table
from studies.headline import table as headline
from studies.runner import DTYPES
from studies.screen import table as screen
from studies.shifts import run as shifts
from studies.shifts import table as shifts_table
from studies.stored import FRAMES, scored, store, stored
from studies.tables import PAGE
from study_helpers import run_of


def test_the_tables_in_the_docs_are_those_of_the_stored_scores():
    texts = cue_table.tables(cue_table.read()) | {"shifts": shifts_table.tables(stored(shifts_table.RESULTS))}
    texts |= headline.tables() | screen.tables()
    pages = {path: path.read_text() for path in (PAGE, headline.README)}
    assert len(texts) == pages[PAGE].count("<!-- begin ") == pages[PAGE].count("<!-- end ")
    for path, page in pages.items():
        for name, text in texts.items():
            if path == PAGE or f"<!-- begin {name} -->" in page:
                shown = page.partition(f"<!-- begin {name} -->\n")[2].partition(f"<!-- end {name} -->")[0]
                assert shown.strip() == text.strip(), name


def test_the_figures_in_the_readme_are_those_of_the_tables():
    said = headline.README.read_text().partition("<!-- end headline/summary -->")[2].partition("## ")[0]
    figures = set(re.findall(r"[+-]?\.\d{3}", said))
    assert len(figures) >= 10
    tables = PAGE.read_text()
    assert not {f for f in figures if f.replace(".", "0.", 1) not in tables}


def test_the_headline_tables_wait_for_whole_shifts(tmp_path, monkeypatch):
    """Two shifts are whole here, of a third a seed of one method is missing."""
    sources, rows = ["math_easy", "arc_easy", "math"], ["dpo", "residual", "residual-permuted"]
    monkeypatch.setattr(headline, "planned", lambda: {source: {row: [1, 2] for row in rows} for source in sources})
    made = []
    for source, row, seed in itertools.product(sources, rows, (1, 2)):
        if (source, row, seed) != ("math", "residual", 2):
            right = (1, 0) if row == "residual" else (0, 1)
            made.append(run_of(tmp_path, row, seed, (1, 1), right, (1, 0), (1, 0), source=source))
            (made[-1] / "sweep.json").write_text(json.dumps({"row": row}))
    study = read_study(made)
    assert headline.whole(study) == ["math_easy", "arc_easy"]
    text = headline.summary(study)
    assert "Means over 2 shifts (math_easy, arc_easy), 2 seeds each." in text
    found = {line.split(" | ")[0][2:]: line.split(" | ")[1:] for line in text.splitlines() if line.startswith("| ")}
    assert list(found) == ["method", "---", "base", *rows]
    assert [found["residual"][1][:5], found["dpo"][1][:5]] == ["0.500", "0.500"]
    assert headline.shift_tables(study).count(" -> far:") == 3
    alone = replace(study, runs=study.runs.filter(source="math_easy"))
    assert headline.summary(alone) == "Fewer than two shifts are whole yet.\n"


def test_no_archive_holds_texts_of_the_data():
    found = list((PAGE.parents[1] / "studies").rglob("overlap.jsonl"))
    assert len(found) >= 75
    for path in found:
        for line in path.read_text().splitlines():
            assert set(json.loads(line)) == {"set", "train", "target", "similarity"}, path


def test_stored_scores_name_no_machine():
    kept = list(Path(PAGE.parents[1] / "studies").rglob("runs.parquet"))
    assert kept
    for path in kept:
        assert not any("/" in folder for folder in pl.read_parquet(path)["folder"])


def test_a_study_comes_back_as_it_was_stored(tmp_path):
    made = [run_of(tmp_path, "dpo", s, (1, 1), (0, 0.5), base_test=(1, 0), base_oos=(0, 1)) for s in (1, 2)]
    study = read_study(made)
    for runs in (made[:1], made[1:], made[1:]):  # one after the other, as a study grows; and once more
        again = store(runs, tmp_path / "kept", {"dpo": "plain"})
    for name in FRAMES[1:]:
        assert getattr(again, name).equals(getattr(study, name), null_equal=True)
    assert again.runs.drop("folder", "method").equals(study.runs.drop("folder", "method"))
    assert again.runs["method"].to_list() == ["plain"] * 2
    assert again.runs["folder"].to_list() == again.runs["run"].to_list()


@pytest.mark.parametrize(
    ("names", "config"),
    [
        (cue.names(), cue.bench()[0]),
        (cue.names(), cue.balanced()[0]),
        (shifts.names(), shifts.runs(shifts.Options())[0]),
    ],
    ids=["bench", "balanced", "shifts"],
)
def test_rows_have_their_names_in_whatever_type_the_base_was_loaded(names, config):
    found = {names[group_label(replace(config, model=replace(config.model, dtype=dtype)))] for dtype in DTYPES}
    assert found == {"dpo"}


def gain(mean, se):
    """An estimate with 10 degrees of freedom."""
    half = 2.2281 * se
    return replace(UNKNOWN, mean=mean, low=mean - half, high=mean + half, se=se, df=10.0)


NONE = "No gain is beyond chance after Holm's correction over the 2 gains of this table"


@pytest.mark.parametrize(
    ("gains", "said"),
    [
        ({"a": UNKNOWN}, "No gain can be tested yet."),
        ({"a": gain(0.0, 1.0), "b": gain(0.01, 1.0)}, f"{NONE} (every p is 1)."),
        # t = 2.5 at 10 df: p = .0314, which is beyond chance alone and not as one of two
        ({"a": gain(2.5, 1.0)}, "Beyond chance after Holm's correction over the 1 gains of this table: a (p 0.031)."),
        ({"a": gain(2.5, 1.0), "b": gain(0.0, 1.0), "c": UNKNOWN}, f"{NONE} (the least p is 0.06, of a)."),
    ],
)
def test_which_gains_are_beyond_chance(gains, said):
    assert tables.tests_text(gains, "gain") == said


def test_marks_and_levels_stand_beneath_a_shift(tmp_path):
    for method in ("dpo", "residual"):
        run_of(tmp_path, method, 1, (1, 1, 0, 1), (0, 1, 1, 0), base_test=(1, 1, 1, 1), base_oos=(0, 1, 0, 1))
    text = tables.shift_table(read_study(str(tmp_path / "*")), "toy", ["dpo", "residual"], {}, "dpo")
    assert "Intervals are over prompts: those of one seed do not cover seeds." in text
    assert "* did not learn, test: dpo: test accuracy .750 is not above the base's 1.000" in text
    assert "over dpo" in text


def test_a_seed_of_a_row_is_stored_once(tmp_path):
    """Trained again with weights of another type it has another name, and tables would silently take the first."""
    made = [
        run_of(tmp_path, "dpo", 1, (1, 1), (0, 0.5), base_test=(1, 0), base_oos=(0, 1), lr=lr) for lr in (1e-4, 2e-4)
    ]
    names = {"dpo": "dpo", next(m for m in read_study(made).runs["method"] if m != "dpo"): "dpo"}
    store(made[:1], tmp_path / "kept", names)
    with pytest.raises(ValueError, match="one run of a study is there more than once: "):
        store(made[1:], tmp_path / "kept", names)


def test_a_run_that_no_table_would_show_is_not_stored(tmp_path):
    made = run_of(tmp_path, "dpo", 1, (1, 1), (0, 0.5), base_test=(1, 0), base_oos=(0, 1))
    with pytest.raises(ValueError, match="the study has no row for dpo; were its runs made with other options"):
        store([made], tmp_path / "kept", {"dpo+0e3b4036": "dpo"})
    assert not (tmp_path / "kept").exists()


def test_the_area_under_the_curve_by_hand():
    """Of six couples of one pair of either kind five stand in order; one that follows the cue is of neither kind."""
    right = np.array([1, 1, 0, 0, 0, 1, 0], bool)
    cued = np.array([0, 0, 1, 1, 1, 1, 0], bool)
    found = labels.judged(np.array([2.0, 0.5, -1.0, 1.0, 0.0, -3.0, 9.0]), right, cued)
    assert (found["contradicts"], found["mislabelled"]) == (2, 3)
    assert found["auc"] == pytest.approx(5 / 6)
    assert found["wrong_of_contradicts"] == 0.0
    assert found["wrong_of_mislabelled"] == pytest.approx(1 / 3)
    assert found["wrong_of_others"] == 1.0


def test_the_kinds_of_pairs_are_those_that_the_data_were_made_with():
    found = np.array(labels.kinds("embedded:cue(rho=.95,noise=.1)", 0))
    assert len(found) == 192
    assert (~found[:, 0]).sum() == pytest.approx(19, abs=1)
    assert found[:, 1].mean() == pytest.approx(0.95, abs=0.01)


def test_every_run_of_a_study_is_another():
    for configs in (cue.bench(), cue.balanced(), cue.noisy(), shifts.runs(shifts.Options())):
        assert len({config.run_name for config in configs}) == len(configs)


def test_the_bench_has_a_control_for_each_method_that_claims_a_gain():
    for method, control in cue_table.CONTROLS.items():
        assert {method, control} <= set(cue.METHODS)


def test_only_scored_runs_are_read(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "headline.json").write_text("{}")
    (tmp_path / "two").mkdir()
    assert scored(tmp_path) == [tmp_path / "one"]
