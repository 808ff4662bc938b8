"""What `view` reads: which folders are runs, their status, files that are half-written, paths that lead out."""

import json
import math
import os
import time
from dataclasses import replace

import pytest

from innerpo.training.state import RunState
from innerpo.view import tables
from innerpo.view.curves import POINTS, chart, chosen_by_default, points
from innerpo.view.folders import OutsideError, open_beneath, run_folder, run_paths
from innerpo.view.reading import Log, Reader
from innerpo.view.runs import Runs
from innerpo.view.status import Evidence, minutes, planned_steps, status_of
from view_helpers import HEADLINE, LINES, drawn_rows, estimate, finished, training, write_config, write_log, write_state

# -- folders -----------------------------------------------------------------------------------------------------------


def test_runs_are_found_at_any_depth_without_following_links(tmp_path):
    root = tmp_path / "root"
    for path in ("a", "b/c", "b/.hidden", "a/checkpoints/checkpoint-1", "a/eval-1234"):
        write_config(root / path)
    (root / "empty").mkdir()
    write_config(tmp_path / "elsewhere")
    (root / "link").symlink_to(tmp_path / "elsewhere")
    (root / "again").symlink_to(root / "b")
    assert run_paths(root) == ["a", "b/c"]
    assert run_paths(root / "a") == [""]
    assert run_paths(root / "vanished") == []


def test_the_runs_that_a_sweep_is_at_are_shown(tmp_path):
    write_config(tmp_path / "a")
    write_config(tmp_path / ".sweep" / "attempts" / "1" / "b")
    write_config(tmp_path / ".other" / "c")
    assert run_paths(tmp_path) == [".sweep/attempts/1/b", "a"]
    assert run_folder(tmp_path, ".sweep/attempts/1/b").is_dir()
    with pytest.raises(OutsideError):
        run_folder(tmp_path, ".other/c")


@pytest.mark.parametrize(
    "path",
    ["..", "../elsewhere", "a/../../elsewhere", "a/..", ".", "./a", "a/", "a//b", "/etc", "//etc",
     "a\\..\\..\\elsewhere",
     "..\\elsewhere", "a\0", "C:/x", ".hidden", "link", "a/link", "loop", "x" * 5000, "nothing", "empty", "pipe"],
)  # fmt: skip
def test_a_path_that_leads_out_or_to_no_run_is_refused(tmp_path, path):
    root = tmp_path / "root"
    write_config(root / "a")
    write_config(root / ".hidden")
    write_config(tmp_path / "elsewhere")
    (root / "empty").mkdir()
    (root / "pipe").mkdir()
    os.mkfifo(root / "pipe" / "config.yaml")
    (root / "link").symlink_to(tmp_path / "elsewhere")
    (root / "a" / "link").symlink_to(tmp_path)
    (root / "loop").symlink_to(root / "loop")
    assert run_folder(root, "a") == root / "a"
    with pytest.raises(OutsideError):
        run_folder(root, path)


def test_a_link_that_stays_beneath_the_root_is_followed(tmp_path):
    write_config(tmp_path / "a")
    (tmp_path / "latest").symlink_to(tmp_path / "a")
    assert run_folder(tmp_path, "latest") == tmp_path / "a"


def test_files_that_are_links_out_pipes_or_devices_are_not_read(tmp_path):
    (tmp_path / "secret").write_text("secret: 1")
    root = tmp_path / "root"
    folder = finished(root / "a")
    for name, target in (("run.json", tmp_path / "secret"), ("headline.json", "/dev/zero")):
        (folder / name).unlink()
        (folder / name).symlink_to(target)
    (folder / "state.json").unlink(missing_ok=True)
    os.mkfifo(folder / "state.json")  # opening it would wait for a writer
    run = Runs(root).one("a")
    assert (run.record, run.tables) == ({}, {})
    assert len([p for p in run.problems if "is not a file beneath" in p]) == 3
    with pytest.raises(OutsideError):
        open_beneath(root, folder / "run.json")


# -- status ------------------------------------------------------------------------------------------------------------

ALIVE = RunState("training", os.getpid(), os.uname().nodename)


@pytest.mark.parametrize(
    ("evidence", "status"),
    [
        (Evidence(has_config=True), ("planned", "")),
        (Evidence(), ("planned", "no config.yaml")),
        (Evidence(has_config=True, log_changed=990.0), ("training", "")),
        (Evidence(has_config=True, log_changed=10.0), ("stale", "no log line since 16 min")),
        (Evidence(log_changed=10.0, has_checkpoints=True), ("interrupted", "no log line since 16 min; can be resumed")),
        (Evidence(has_config=True, has_checkpoints=True), ("interrupted", "can be resumed")),
        (Evidence(has_record=True, log_changed=990.0), ("finished", "not scored")),
        (Evidence(has_record=True, has_scores=True), ("finished", "")),
        (Evidence(replace(ALIVE, phase="failed", error="no memory"), has_checkpoints=True), ("failed", "no memory")),
        (Evidence(replace(ALIVE, phase="interrupted")), ("interrupted", "training is incomplete")),
        (
            Evidence(replace(ALIVE, pid=2**22 + 7)),
            ("interrupted", f"process {2**22 + 7} ended; training is incomplete"),
        ),
        (
            Evidence(replace(ALIVE, phase="scoring", pid=2**22 + 7), has_record=True),
            ("interrupted", f"process {2**22 + 7} ended; trained, scores are incomplete"),
        ),
        (Evidence(replace(ALIVE, host="far", updated=900.0)), ("training", "on far")),
        (Evidence(replace(ALIVE, host="far", phase="scoring", updated=900.0), has_record=True), ("scoring", "on far")),
        (Evidence(replace(ALIVE, host="far", updated=10.0)), ("stale", "no sign of life from far since 16 min")),
        (Evidence(replace(ALIVE, host="far")), ("stale", "no sign of life from far since –")),
    ],
)
def test_status(evidence, status):
    assert status_of(evidence, now=1000.0) == status


def test_a_process_that_lives_trains_however_long_a_step_takes(tmp_path):
    training(tmp_path / "a")
    write_state(tmp_path / "a", updated=0.0)
    assert Runs(tmp_path).one("a").status == "training"


def test_durations():
    assert [minutes(s) for s in (0.4, 89.0, 90.0, 3599.0, 3 * 3600 + 299.0, 2e5, math.nan)] == [
        "0 s", "89 s", "2 min", "1 h 00 min", "3 h 05 min", "2 d 7 h", "–"
    ]  # fmt: skip


def test_planned_steps_where_no_state_says_them():
    config = {"training": {"epochs": 2.0, "max_steps": 0}}
    assert planned_steps(config, {"steps": 12}, {}) == 12
    assert planned_steps({"training": {"max_steps": 5}}, {}, {}) == 5
    assert planned_steps(config, {}, {"step": 3, "epoch": 0.75}) == 8
    assert planned_steps(config, {}, {"step": 3}) == -1
    assert planned_steps({"training": "?"}, {}, {"step": 3, "epoch": 0.0}) == -1


# -- logs --------------------------------------------------------------------------------------------------------------


def test_only_what_was_appended_is_read_and_a_torn_line_waits_for_its_end(tmp_path):
    path, reader = tmp_path / "metrics.jsonl", Reader(tmp_path)
    path.write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "lo')
    log = reader.log(path)
    assert (log.lines, log.torn, log.bad) == ([{"step": 1, "loss": 0.5}], True, 0)
    with path.open("a") as file:
        file.write('ss": 0.25}\n')
    assert reader.log(path) is log
    assert (len(log.lines), log.torn, log.offset) == (2, False, path.stat().st_size)
    assert log.last("loss") == 0.25


def test_a_log_that_was_cut_or_replaced_is_read_again(tmp_path):
    path, reader = tmp_path / "metrics.jsonl", Reader(tmp_path)
    write_log(tmp_path)
    assert len(reader.log(path).lines) == 2
    path.write_text(json.dumps({"step": 1, "loss": 9.0}) + "\n")  # shorter, the same file
    assert [line["loss"] for line in reader.log(path).lines] == [9.0]
    path.write_text("".join(json.dumps({"step": s, "loss": 7.0}) + "\n" for s in range(1, 9)))  # longer, the same file
    assert [line["loss"] for line in reader.log(path).lines] == [7.0] * 8
    path.unlink()
    assert reader.log(path).lines == []


def test_bad_lines_of_a_log_are_counted():
    log = Log()
    log.append(
        b'{"step": 1, "loss": 2}\n\n[]\nnot json\n{"loss": 3}\n{"step": "x"}\n\xff\xfe\n{"step": NaN}\n{"step": 2}\n'
    )
    assert ([line["step"] for line in log.lines], log.bad, log.torn) == ([1, 2], 6, False)
    assert math.isnan(log.last("lr"))


def test_keys_are_the_numbers_that_were_logged():
    log = Log(
        lines=[{"step": 1, "epoch": 0.1, "loss": 1, "note": "x", "flag": True}, {"step": 2, "eval": None, "lr": 0.1}]
    )
    assert log.names() == ["loss", "lr"]


# -- files that are half-written ---------------------------------------------------------------------------------------

HALF = {
    "config.yaml": ["method: {name: dpo", "[1, 2]", "a: b: c", "\tx", "? [a", "&a [*a]", ""],
    "run.json": ['{"method": "dpo', "", "[]", "null", "[" * 100_000],
    "headline.json": ['{"mean_logp": {', "[]"],
    "state.json": ["", "{", '{"phase": "dancing"}'],
    "scores.parquet": ["PAR1 and then nothing", "PAR1", ""],
    "scores.jsonl": ['{"model": "base"}\n{"mod'],
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in HALF.items() for text in texts])
def test_a_half_written_file_is_a_problem_and_the_rest_is_shown(tmp_path, name, text):
    finished(tmp_path / "a")
    (tmp_path / "a" / name).write_text(text)
    run = Runs(tmp_path).one("a")
    assert [p for p in run.problems if p.startswith(f"{name} cannot be read: ")], run.problems
    assert all("\n" not in problem for problem in run.problems)
    assert len(run.log.lines) == 2


def test_a_file_of_another_encoding_or_form_is_a_problem(tmp_path):
    folder = finished(tmp_path / "a")
    (folder / "config.yaml").write_bytes(b"\xff\xfe\x00")
    (folder / "run.json").write_text('{"method": ["dpo"], "dataset": {"a": 1}, "steps": "many"}')
    (folder / "headline.json").write_text(
        '{"mean_logp": {"dpo": {"test": 3, "oos": {"mean": "x"}}, "base": []}, "x": 1}'
    )
    run = Runs(tmp_path).one("a")
    assert (run.method, run.status, run.done) == ("['dpo']", "finished", 2)
    assert [cell.text for cell in tables.headline_tables(run)[0].rows[0]] == ["dpo", "–", "–"]
    assert run.problems[0].startswith("config.yaml cannot be read")


def test_a_whole_file_of_scores_is_no_problem(tmp_path):
    folder = finished(tmp_path / "a")
    (folder / "scores.parquet").write_bytes(b"PAR1....PAR1")
    (folder / "pairs.jsonl").write_text("{}\n")
    (folder / "sets.jsonl").touch()
    assert Runs(tmp_path).one("a").problems == ()


def test_a_file_is_read_again_only_when_it_changed(tmp_path):
    path, reader, calls = tmp_path / "x", Reader(tmp_path), []

    def parse(file):
        calls.append(1)
        return file.read()

    path.write_text("one")
    assert [reader.read(path, parse).value for _ in range(3)] == [b"one"] * 3
    path.write_text("three")
    assert reader.read(path, parse).value == b"three"
    assert len(calls) == 2
    reader.forget(set())
    reader.read(path, parse)
    assert len(calls) == 3


def test_runs_that_vanish_meanwhile_are_left_out(tmp_path, monkeypatch):
    finished(tmp_path / "a")
    monkeypatch.setattr("innerpo.view.runs.run_paths", lambda root: ["a", "gone"])
    assert [run.path for run in Runs(tmp_path).all()] == ["a"]


# -- tables and curves -------------------------------------------------------------------------------------------------


def test_a_run_in_training(tmp_path):
    training(tmp_path / "a", done=2, total=8)
    run = Runs(tmp_path).one("a")
    assert (run.status, run.done, run.total, run.method, run.dataset, run.seed) == (
        "training", 2, 8, "dpo", "embedded:longer", "1"
    )  # fmt: skip
    assert run.seconds_left == pytest.approx(30.0, abs=0.1)  # 5 s a step, 6 to go
    assert time.time() - run.changed < 60


def test_tables_of_scores(tmp_path):
    folder = finished(tmp_path / "a")
    (folder / "eval-12345678").mkdir()
    (folder / "eval-12345678" / "headline.json").write_text(json.dumps(HEADLINE))
    run = Runs(tmp_path).one("a")
    first, second = tables.headline_tables(run)
    assert first.columns == ("model", "test", "oos")
    assert [[c.text for c in row] for row in first.rows] == [
        ["base", "0.500 [0.400, 0.600]", "0.250 [0.150, 0.350]"], ["dpo", "0.875 [0.775, 0.975]", "–"]
    ]  # fmt: skip
    assert second.caption.startswith("eval-12345678: accuracy by mean_logp")
    assert {name: cell.text for name, cell in tables.overview(run).items()} == {
        "train": "–", "test": "0.875 [0.775, 0.975]", "oos": "–", "rnd": "–"
    }  # fmt: skip


def test_the_overview_is_of_the_policy_as_trained(tmp_path):
    """Scored at several strengths, each has a row with its own name."""
    folder = finished(tmp_path / "a")
    table = HEADLINE["mean_logp"]
    rows = {"base": table["base"], "dpo x 0.5": {"test": estimate(0.5)}, "dpo x 1": table["dpo"]}
    (folder / "headline.json").write_text(json.dumps({"mean_logp": rows | {"columns": table["columns"]}}))
    assert tables.overview(Runs(tmp_path).one("a"))["test"].text == "0.875 [0.775, 0.975]"
    (folder / "headline.json").write_text(json.dumps({"mean_logp": {"dpo x 0.5": {"test": estimate(0.5)}}}))
    assert tables.overview(Runs(tmp_path).one("a"))["test"].text == "–"


def test_the_base_stands_once_where_it_is_the_same_and_options_that_differ_are_named(tmp_path):
    finished(tmp_path / "a")
    write_config(finished(tmp_path / "b"), "method: {name: dpo, alpha: 0.5}\ntraining: {seed: 1}\nextra: 1\n")
    runs = Runs(tmp_path).all()
    assert [row[0].text for row in tables.compared(runs).rows] == ["base", "a: dpo", "b: dpo"]
    table = HEADLINE["mean_logp"]
    same = {"base": table["base"], "probe": table["base"], "columns": table["columns"]}
    noop = replace(runs[0], name="p", tables={"": {"mean_logp": same}})
    assert [row[0].text for row in tables.compared([noop, runs[1]]).rows] == ["base", "p: probe", "b: dpo"]
    options = {row[0].text: [c.text for c in row[1:]] for row in tables.differing_options(runs).rows}
    assert options["method.alpha"] == ["0.0", "0.5"]
    assert options["extra"] == ["–", "1"]
    assert "training.seed" not in options
    assert tables.compared([replace(run, tables={}) for run in runs]) is None


def test_a_chart_has_a_line_for_each_run_that_logged_the_key(tmp_path):
    training(tmp_path / "a")
    training(tmp_path / "b")
    write_log(tmp_path / "b", [{"step": 3, "loss": float("inf")}, {"step": 4, "loss": 0.25, "grad_norm": 2.0}])
    runs = Runs(tmp_path).all()
    drawn = chart(runs, "loss")
    assert [(r["series"], r["x"], r["y"]) for r in drawn_rows(drawn)] == [
        ("a", 1.0, 0.75), ("a", 2.0, 0.5), ("b", 1.0, 0.75), ("b", 2.0, 0.5), ("b", 4.0, 0.25)
    ]  # fmt: skip
    assert [entry["label"] for entry in drawn["legend"]] == ["a", "b"]
    assert drawn["keys"] == ["loss", "rewards/accuracies", "grad_norm"]
    assert [entry["label"] for entry in chart(runs, "grad_norm")["legend"]] == ["b"]
    assert (chart(runs, "later")["key"], chart(runs, "later")["spec"]) == ("later", None)
    assert chart([], "loss")["spec"] is None


def test_long_curves_are_thinned_and_keep_their_ends(tmp_path):
    write_config(tmp_path / "a")
    write_log(tmp_path / "a", [{"step": s, "loss": 1 / s} for s in range(1, 10 * POINTS + 2)])
    found = points(Runs(tmp_path).one("a"), "loss")
    assert 0.9 * POINTS < len(found) <= POINTS + 1
    assert (found[0], found[-1][0]) == ((1.0, 1.0), 10 * POINTS + 1)


def test_without_a_choice_the_curves_are_those_of_the_runs_that_changed_last(tmp_path):
    for i in range(8):
        write_config(tmp_path / f"r{i}")
        if i:
            write_log(tmp_path / f"r{i}", LINES)
            os.utime(tmp_path / f"r{i}" / "metrics.jsonl", (1000 + i, 1000 + i))
    assert [run.path for run in chosen_by_default(Runs(tmp_path).all())] == ["r7", "r6", "r5", "r4", "r3", "r2"]
