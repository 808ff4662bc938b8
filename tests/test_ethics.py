"""ETHICS: neighbouring rows as expression pairs."""

from pathlib import Path

import pytest

from innerpo.config.data import DataConfig
from innerpo.data.pairs import BadRows
from innerpo.data.sources import ethics, load_pairs
from source_helpers import ITEMS, SHARED, make_ethics, make_genies, needs_ethics, one_line_error


@pytest.fixture(autouse=True)
def _no_folders_from_outside(monkeypatch):
    monkeypatch.delenv("INNERPO_GENIES_DIR", raising=False)
    monkeypatch.delenv("INNERPO_ETHICS_DIR", raising=False)


JUSTICE = """label,scenario
1,I deserve to be paid by her because I work.
0,I deserve to be paid by him because I sleep.
1,"I usually call Joe, but today didn't because  he slept."
0,"I usually call Joe, but today didn't because  he sang."
0,I am owed a car because I ate.
"""


def test_justice_pairs_neighbours_with_a_common_root_and_keeps_the_text(tmp_path):
    data, bad = make_ethics(tmp_path, "justice/justice_train.csv", JUSTICE), BadRows()
    first, second = load_pairs("ethics:justice", "train", data, bad)
    assert (first.prompt, first.chosen) == ("I deserve to be paid by", " her because I work.")
    assert first.rejected == " him because I sleep."
    assert second.prompt == "I usually call Joe, but today didn't because  he"
    assert f"{second.prompt}{second.rejected}" == "I usually call Joe, but today didn't because  he sang."
    assert [p.id for p in (first, second)] == ["ethics:justice/train/2", "ethics:justice/train/4"]
    assert bad.reasons[0].endswith("line 6: has no neighbour to make a pair with")


def test_the_longest_shared_beginnings_win_over_the_first_that_fit():
    rows = [
        (1, True, "I do like tea", ""),
        (2, False, "I do like red wine now", ""),
        (3, True, "I do like red wine too", ""),
    ]
    pairs, alone = ethics.pair_neighbours(rows)
    assert pairs == [(2, "I do like red wine", " too", " now")]
    assert alone == [1]
    assert ethics.pair_neighbours([]) == ([], [])


@pytest.mark.parametrize(
    ("file", "text", "prompt", "chosen", "rejected"),
    [
        (  # 1 = clearly wrong
            "commonsense/cm_test.csv",
            "label,input,is_short,edited\n0,I told my baby yes.,True,False\n1,I told my baby no.,True,False\n",
            "I told my baby",
            " yes.",
            " no.",
        ),
        (
            "deontology/deontology_test.csv",
            "label,scenario,excuse\n0,Could you cook?, But no.\n1,Could you cook?,But I am out.\n",
            "Could you cook?",
            " But I am out.",
            " But no.",
        ),
        (
            "virtue/virtue_test.csv",
            "label,scenario\n0,He gave. [SEP] mean\n1,He gave. [SEP] kind\n",
            "He gave.\nCharacter trait:",
            " kind",
            " mean",
        ),
        (
            "utilitarianism/util_test.csv",
            "I went out and won.,I went out and lost.\nI went out and sang.,I stayed.\n",
            "I went out and",
            " won.",
            " lost.",
        ),
    ],
)
def test_the_other_subsets(tmp_path, file, text, prompt, chosen, rejected):
    data, name = make_ethics(tmp_path, file, text), file.split("/")[0]
    (found,) = load_pairs(f"ethics:{name}", "test", data)
    assert (found.prompt, found.chosen, found.rejected) == (prompt, chosen, rejected)
    one_line_error(lambda: load_pairs(f"ethics:{name}", "train", data), "does not exist", file.split("/")[1])


def test_ethics_lies_beside_genies_and_bad_lines_are_named(tmp_path):
    make_ethics(tmp_path / "ethics", "justice/justice_train.csv", JUSTICE)
    root = make_genies(tmp_path / "genies", ITEMS)
    assert len(load_pairs("ethics:justice", "train", DataConfig(genies_dir=root))) == 2
    data = make_ethics(tmp_path / "e", "justice/justice_train.csv", JUSTICE + "1\n")
    one_line_error(lambda: load_pairs("ethics:justice", "train", data), "line 7: does not have the columns")


@needs_ethics
def test_published_justice_pairs_are_the_published_texts_each_used_once():
    data = DataConfig(ethics_dir=SHARED / "ethics")
    texts = (SHARED / "ethics" / "justice" / "justice_train.csv").read_text().replace('""', '"')
    pairs = load_pairs("ethics:justice", "train", data)
    assert len(pairs) > 6000
    assert len({p.id for p in pairs}) == len(pairs)
    for p in pairs[:: len(pairs) // 500]:
        assert f"1,{p.prompt}{p.chosen}" in texts or f'1,"{p.prompt}{p.chosen}' in texts
        assert f"0,{p.prompt}{p.rejected}" in texts or f'0,"{p.prompt}{p.rejected}' in texts


@pytest.mark.parametrize("at", [".", "..", "distributions", "distributions/.."])
def test_a_genies_folder_may_be_named_from_within(tmp_path, monkeypatch, at):
    """Beside it lies ``ethics``, by whatever path it is named."""
    make_ethics(tmp_path / "ethics", "justice/justice_train.csv", JUSTICE)
    root = make_genies(tmp_path / "genies", ITEMS)
    monkeypatch.chdir(root / "distributions" if at == ".." else root)
    assert ethics.ethics_folder(DataConfig(genies_dir=Path(at))) == tmp_path / "ethics"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "link").symlink_to(root)  # a link lies where it is named
    (tmp_path / "elsewhere" / "ethics").mkdir()
    linked = ethics.ethics_folder(DataConfig(genies_dir=tmp_path / "elsewhere" / "link"))
    assert linked == tmp_path / "elsewhere" / "ethics"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"label,scenario\n1,caf\xe9\n", "cannot be read as UTF-8"),
        (b"label,scenario\n1," + b"x" * 200_000, "as csv: field larger"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(tmp_path, text, reason):
    data = make_ethics(tmp_path, "justice/justice_train.csv", JUSTICE)
    (tmp_path / "justice/justice_train.csv").write_bytes(text)
    one_line_error(lambda: load_pairs("ethics:justice", "train", data), "justice_train.csv", reason)
