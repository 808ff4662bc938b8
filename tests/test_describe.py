"""What `innerpo data NAME` shows."""

import pytest
from rich.console import Console

from innerpo.cli.render_data import as_rich
from innerpo.config.data import DataConfig
from innerpo.data.describe import describe, summarise
from innerpo.data.pairs import BadRows
from source_helpers import BLUE, GOOD, GREEN, USER, one_line_error, pair, write_jsonl


def test_summary_by_hand():
    rows = [
        {"prompt": "ab", "chosen": "xyz", "rejected": "x"},
        {"prompt": "ab", "chosen": "x", "rejected": "y"},
        {"prompt": [USER], "chosen": [BLUE], "rejected": [GREEN]},
    ]
    summary = summarise([pair(r) for r in rows], "train", BadRows(["a bad one"]))
    assert (summary.pairs, summary.prompts, summary.left_out) == (3, 2, ("a bad one",))
    assert summary.characters == ((2, 4), (3, 4), (1, 5))
    assert summary.longer_chosen == pytest.approx(0.5)  # longer, tie, shorter


def test_describe_shows_both_splits_shifts_and_rows_as_stored(tmp_path):
    console = Console(width=200, record=True, file=(tmp_path / "out").open("w"))
    summaries = describe("embedded:compare", DataConfig())
    console.print(as_rich("embedded:compare", summaries))
    console.file.close()
    shown = console.export_text()
    for part in (
        "128",
        "64",
        "compare_hard (difficulty)",
        "embedded:compare/train/2",
        "\\nAnswer:'",
        "left out",
    ):
        assert part in shown


def test_describe_goes_on_where_one_split_is_missing(tmp_path):
    rows = [(GOOD | {"prompt": "[red]?"})]
    write_jsonl(tmp_path / "train.jsonl", rows)
    train, test = describe(str(tmp_path), DataConfig())
    assert train.pairs == 1
    assert "none of test" in test.missing
    console = Console(width=200, record=True, file=(tmp_path / "out").open("w"))
    console.print(as_rich("x", [train, test]))
    console.file.close()
    assert "[red]?" in console.export_text()
    one_line_error(lambda: describe("embedded:none", DataConfig()), "unknown embedded")
