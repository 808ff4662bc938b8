"""Hub data sets, with a local folder standing in for a repository."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from innerpo.config.data import DataConfig
from innerpo.data.pairs import BadRows
from innerpo.data.sources import hub, load_pairs
from source_helpers import BLUE, GOOD, GREEN, USER, one_line_error


@pytest.fixture
def repository(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "repo"
    folder.mkdir()

    def build(**splits):
        for split, rows in splits.items():
            pq.write_table(pa.Table.from_pylist(rows), folder / f"{split}.parquet")
        return str(folder)

    return build


def from_hub(path, split, named=None, bad=None, **config):
    data = DataConfig(**config)
    return hub.load_from(
        path, None, named, split, data, BadRows() if bad is None else bad, source="o/n", hint="or give a file"
    )


def test_hub_reads_train_and_test_and_names_bad_rows(repository):
    path = repository(train=[GOOD, GOOD | {"chosen": ""}], test=[GOOD | {"prompt": "Sea?"}])
    (test,) = from_hub(path, "test")
    assert (test.prompt, test.id, test.source, test.split) == ("Sea?", "o/n/test/0", "o/n", "test")
    one_line_error(lambda: from_hub(path, "train"), "o/n train row 1: chosen is empty")
    bad = BadRows()
    assert len(from_hub(path, "train", bad=bad, on_bad_row="skip")) == 1
    assert len(bad) == 1


def test_hub_chat_rows_and_validation_serving_as_test(repository, caplog):
    path = repository(
        train=[{"chosen": [USER, BLUE], "rejected": [USER, GREEN]}],
        validation=[{"chosen": [USER, GREEN], "rejected": [USER, BLUE]}],
    )
    assert from_hub(path, "train")[0].chosen == (BLUE,)
    (test,) = from_hub(path, "test")
    assert (test.id, test.split) == ("o/n/validation/0", "test")
    assert "serves as the test split" in caplog.text


@pytest.mark.parametrize(
    ("there", "named", "split", "expected"),
    [
        (["train", "test"], None, "train", ("train", False)),
        (["train", "test", "validation"], None, "test", ("test", False)),
        (["train", "validation"], None, "test", ("validation", False)),
        (["test"], None, "test", ("test", False)),
        (["train_prefs", "test_prefs"], "train_prefs", "train", ("train_prefs", False)),
        (["train_prefs", "test_prefs"], "train_prefs", "test", ("test_prefs", False)),
        (["train"], "train", "train", ("train", True)),
        (["train"], "train", "test", ("train", True)),
        (["train", "extra"], "extra", "test", ("extra", False)),
    ],
)
def test_which_hub_split_is_read(there, named, split, expected):
    assert hub.choose_split("o/n", there, named, split) == expected


@pytest.mark.parametrize(
    ("there", "named", "split", "reason"),
    [
        (["train", "extra"], None, "test", "no test or validation split; it has train, extra"),
        (["test"], None, "train", "no split 'train'; it has test"),
        (["train"], "trian", "train", "no split 'trian'"),
        (["train", "test"], "test", "train", "to score on"),
    ],
)
def test_a_missing_hub_split_lists_what_is_there(there, named, split, reason):
    one_line_error(lambda: hub.choose_split("o/n", there, named, split), reason)


def test_a_hub_name_that_cannot_be_loaded_is_one_line(tmp_path):
    one_line_error(lambda: from_hub(str(tmp_path / "none"), "train"), "could not be loaded", "or give a file")
    one_line_error(lambda: load_pairs("a/b:c:d:e", "train", DataConfig()), "owner/name:config:split")
    one_line_error(lambda: load_pairs("hub:a", "train", DataConfig()), "owner/name")
