"""Local files: four types, two ways to divide them into splits, errors by file and line."""

import json
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from innerpo.config.data import DataConfig
from innerpo.data.pairs import BadRows
from innerpo.data.sources import load_pairs
from source_helpers import BLUE, GOOD, GREEN, USER, one_line_error, write_jsonl


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "parquet"])
def test_every_file_type_gives_the_same_pairs(tmp_path, ending):
    rows = [
        {"prompt": f"Q{i}", "chosen": " ja, sí", "rejected": " no", "split": "train" if i else "test"} for i in range(3)
    ]
    path = tmp_path / f"pairs.{ending}"
    if ending == "jsonl":
        write_jsonl(path, rows)
    elif ending == "json":
        path.write_text(json.dumps(rows))
    elif ending == "csv":
        path.write_text(
            "prompt,chosen,rejected,split\n"
            + "".join(f'Q{i},"{r["chosen"]}", no,{r["split"]}\n' for i, r in enumerate(rows))
        )
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    train, test = (load_pairs(str(path), split, DataConfig()) for split in ("train", "test"))
    assert [(p.prompt, p.chosen, p.rejected) for p in train] == [(f"Q{i}", " ja, sí", " no") for i in (1, 2)]
    assert [p.prompt for p in test] == ["Q0"]
    assert all(p.split == "train" for p in train)


def test_chat_messages_survive_parquet(tmp_path):
    path = tmp_path / "chat.parquet"
    row = {"chosen": [USER, BLUE], "rejected": [USER, GREEN], "split": "train"}
    pq.write_table(pa.Table.from_pylist([row]), path)
    assert load_pairs(str(path), "train", DataConfig())[0].prompt == (USER,)


def test_a_single_file_is_divided_by_prompt_and_more_rows_move_none(tmp_path):
    rows = [GOOD | {"prompt": f"Q{i // 2}", "rejected": f" no {i}"} for i in range(400)]
    load = lambda n, split: load_pairs(write_jsonl(tmp_path / "p.jsonl", rows[:n]), split, DataConfig())  # noqa: E731
    train, test = load(400, "train"), load(400, "test")
    assert len(train) + len(test) == 400
    assert 20 <= len(test) <= 60
    assert not {p.cluster for p in train} & {p.cluster for p in test}
    assert {p.id for p in load(200, "test")} <= {p.id for p in test}


def test_a_folder_holds_train_and_test(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", [GOOD])
    (tmp_path / "test.json").write_text(json.dumps([GOOD | {"prompt": "Sea?"}]))
    assert load_pairs(str(tmp_path), "train", DataConfig())[0].prompt == "Sky?"
    test = load_pairs(str(tmp_path), "test", DataConfig())[0]
    assert (test.prompt, test.split) == ("Sea?", "test")
    (tmp_path / "test.json").unlink()
    one_line_error(lambda: load_pairs(str(tmp_path), "test", DataConfig()), "none of test.jsonl")


BAD_LINES = [
    ('{"prompt": "a"', "is not JSON"),
    ({"prompt": "a", "chosen": "b"}, "no column 'rejected'"),
    (GOOD | {"chosen": " "}, "chosen is empty"),
    (GOOD | {"rejected": " blue"}, "identical"),
    (GOOD | {"split": "dev"}, "'dev'"),
]


@pytest.mark.parametrize(("line", "reason"), BAD_LINES)
def test_a_bad_row_stops_with_file_line_and_reason_or_is_skipped_and_counted(tmp_path, line, reason):
    path = write_jsonl(tmp_path / "p.jsonl", [GOOD | {"split": "train"}, "", line])
    one_line_error(lambda: load_pairs(path, "train", DataConfig()), "p.jsonl line 3: ", reason, "on_bad_row=skip")
    bad = BadRows()
    assert len(load_pairs(path, "train", DataConfig(on_bad_row="skip"), bad)) == 1
    assert len(bad) == 1
    assert reason in bad.reasons[0]


def test_a_bad_row_of_a_divided_file_is_told_once(tmp_path):
    rows = [GOOD | {"prompt": f"Q{i}"} for i in range(60)]
    path, bad = write_jsonl(tmp_path / "p.jsonl", [*rows, {}]), BadRows()
    for split in ("train", "test"):
        load_pairs(path, split, DataConfig(on_bad_row="skip"), bad)
    assert len(bad) == 1


def test_faults_of_whole_files(tmp_path):
    def fails(name, text, *parts):
        (tmp_path / name).write_bytes(text)
        one_line_error(lambda: load_pairs(str(tmp_path / name), "train", DataConfig()), name, *parts)

    fails("empty.jsonl", b"\n\n", "has no rows")
    fails("empty.json", b"", "has no rows")
    fails("empty.csv", b"prompt,chosen,rejected\n", "has no rows")
    fails("object.json", b"{}", "dict, not a list")
    fails("broken.json", b"[{", "not JSON")
    fails("broken.parquet", b"PAR?", "not a parquet file")
    fails("latin.jsonl", "é".encode("latin-1"), "UTF-8")
    fails("all_bad.jsonl", b"{}\n", "line 1")
    one_line_error(lambda: load_pairs(str(tmp_path / "emty.jsonl"), "train", DataConfig()), "'empty.jsonl'")
    one_line_error(lambda: load_pairs(str(tmp_path / "x.txt"), "train", DataConfig()), "no such file")
    path = write_jsonl(tmp_path / "one.jsonl", [GOOD | {"split": "train"}])
    one_line_error(lambda: load_pairs(path, "test", DataConfig()), "no test row", "train.*")


@pytest.mark.parametrize(("umask", "modes"), [(0o077, (0o600, 0o700)), (0o022, (0o644, 0o755))])
def test_new_files_have_the_modes_that_the_user_wants(tmp_path, umask, modes):
    """They are made as temporary ones, for their owner alone; data are not to be shown to all because of that."""
    code = (
        f"import os; os.umask({umask}); from pathlib import Path; from innerpo.files import *\n"
        f"write_text(Path({str(tmp_path / 'a.txt')!r}), 'x')\n"
        f"with staged_directory(Path({str(tmp_path / 'b')!r})): pass"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert tuple(p.stat().st_mode & 0o777 for p in (tmp_path / "a.txt", tmp_path / "b")) == modes
