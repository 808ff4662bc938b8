"""The archive of a study: what it keeps of runs; a sweep goes on from it, also when configs have changed since."""

import errno
import json
import math
import os
import shutil
import threading
import time
from dataclasses import replace

import polars as pl
import pytest

import innerpo
from innerpo.cli.verbs import main
from innerpo.config.yaml import as_yaml, read_yaml
from innerpo.errors import UserError
from innerpo.evaluation.capability_file import read_capability
from innerpo.evaluation.study import read_study
from innerpo.experiments.archive import Archive, store
from innerpo.experiments.attempt import mark, record_failure
from innerpo.experiments.layout import failures
from innerpo.experiments.scored import is_done
from innerpo.experiments.status import Watch
from innerpo.experiments.sweep import find_study, start, status_of
from innerpo.experiments.worker import work
from study_helpers import DEFAULT_SETS, NEAR, right, scores_of
from sweep_helpers import any_base, plan_in, pretend


def scored(config, strengths=(1.0,)):
    """Write a run that is trained and scored, with the same outcomes at every strength."""
    pretend(config)
    sets = {"test": right(1, 1, 0), "oos": right(1, 0, 0)}
    models = {("base", 0.0): sets} | {(config.method_label, s): sets for s in strengths}
    scores_of(models, DEFAULT_SETS).write(config.run_dir)
    (config.run_dir / "headline.json").write_text("{}")
    return config.run_dir


def study(tmp_path, **changes):
    values = {
        "methods": ["dpo", {"method": "innerpo", "row": "ours"}],
        "datasets": ["embedded:compare"],
        "seeds": [1, 2],
    }
    values |= {"output_dir": str(tmp_path / "out"), "archive": str(tmp_path / "kept")}
    values |= {"options": {"data": {"genies_dir": str(tmp_path / "genies"), "cache_dir": str(tmp_path / "cache")}}}
    return values | changes


@pytest.fixture
def file_of(tmp_path):
    def write(values):
        path = tmp_path / "study.yaml"
        path.write_text(json.dumps(values))
        return path

    return write


@pytest.fixture
def archived(tmp_path):
    """A study of four runs whose folder is gone, and its archive."""
    found = find_study(study(tmp_path), {})
    plan = plan_in(found.output_dir, *found.plan.runs)
    for run in plan.runs:
        mark(scored(run.config), run)
    Archive(found.archive).keep(Watch(plan, found.output_dir).look().runs, found.output_dir)
    found.output_dir.rename(tmp_path / "gone")
    return found


def test_what_is_kept_of_a_run_has_no_weights_and_names_no_place(archived, tmp_path):
    folders = sorted(archived.archive.iterdir())
    assert [f.name for f in folders] == sorted(run.name for run in archived.plan.runs)
    files = {f.name for folder in folders for f in folder.iterdir()}
    facts = {"scores.parquet", "pairs.parquet", "sets.parquet"}
    assert files == {"config.yaml", "run.json", "sweep.json", "metrics.jsonl", "headline.json"} | facts
    for path in archived.archive.rglob("*.*"):
        assert str(tmp_path).encode() not in path.read_bytes(), path


def test_an_archive_has_no_texts_of_the_data(archived, tmp_path):
    source = tmp_path / "gone" / archived.plan.runs[0].name
    (source / "overlap.jsonl").write_text(json.dumps(NEAR) + "\n")
    place = store(source, archived.archive)
    assert json.loads((place / "overlap.jsonl").read_text()) == {
        k: NEAR[k] for k in ("set", "train", "target", "similarity")
    }


def no_weights(monkeypatch):
    monkeypatch.setattr("innerpo.experiments.worker.Bases.of", lambda *_: any_base())


def test_a_sweep_does_what_the_archive_lacks(archived, tmp_path, monkeypatch):
    no_weights(monkeypatch)
    done = []

    def train(config, base):
        done.append((config.method.name, config.training.seed))
        scored(config)

    more = find_study(study(tmp_path, seeds=[1, 2, 3]), {})
    started = start(more)
    work(started.open, started.folder, train=train)
    status = started.look()
    assert sorted(done) == [("dpo", 3), ("innerpo", 3)]
    assert [run.planned.id for run in status.runs] == [run.id for run in more.plan.runs]
    new = [run.planned.config.training.seed == 3 for run in status.runs]
    assert [run.note for run in status.runs] == ["" if n else "archived" for n in new]
    assert [run.state for run in status.runs] == ["done"] * 6
    assert len(list(archived.archive.iterdir())) == 6  # the new ones have been added
    assert status_of(more).count("done") == 6
    assert start(more).is_over
    found = innerpo.table(tmp_path / "kept")
    assert set(found.rows) == {"base", "dpo", "ours"}


def test_a_run_is_found_though_a_config_has_got_a_field_since(archived):
    """What was archived before a field existed lies under another id, and its config lacks the field."""
    (run, *_) = archived.plan.runs
    place = archived.archive / run.name
    values = read_yaml(place / "config.yaml")
    assert values["training"].pop("weight_decay") == 0.0
    (place / "config.yaml").write_text(as_yaml(values | {"run_id": "0123456789ab"}))
    older = place.rename(archived.archive / "dpo_of_older_code+01234567")
    assert Archive(archived.archive).find(run) == older
    values["training"]["weight_decay"] = 0.1  # another run
    (older / "config.yaml").write_text(as_yaml(values))
    assert Archive(archived.archive).find(run) is None
    values["training"]["field_of_the_past"] = 1
    (older / "config.yaml").write_text(as_yaml(values))
    assert Archive(archived.archive).find(run) is None
    assert len(Archive(archived.archive).split(archived.plan)[0]) == 3


def test_what_was_not_scored_is_not_found(archived, tmp_path):
    more = find_study(study(tmp_path, strengths=[0.5, 1.0]), {})
    assert not Archive(archived.archive).split(more.plan)[0]
    other = find_study(study(tmp_path, sets=["test", "train"]), {})
    assert not Archive(archived.archive).split(other.plan)[0]


def test_rows_are_those_of_the_study_at_hand_in_both_places(archived, tmp_path):
    (tmp_path / "gone").rename(tmp_path / "out")
    renamed = study(tmp_path, methods=[{"method": "dpo", "row": "plain"}, "innerpo"])
    assert status_of(find_study(renamed, {})).count("done") == 4
    assert rows_in(archived.archive) == {"dpo", "ours"}  # to look changes nothing
    start(find_study(renamed, {}))
    assert rows_in(archived.archive) == rows_in(tmp_path / "out") == {"plain", "innerpo"}


def rows_in(folder):
    return set(read_study(folder).runs["method"])


def test_sweeps_that_archive_at_once(tmp_path):
    """Some share a folder; one has the same runs, trained again, in its own."""
    found = find_study(study(tmp_path), {})
    sides = []
    for name in ("out", "other"):
        plan = plan_in(tmp_path / name, *found.plan.runs)
        for run in plan.runs:
            scored(run.config)
            (tmp_path / name / run.name / "run.json").write_text(json.dumps({"last_loss": name}))
        sides += [(Watch(plan, tmp_path / name).look().runs, tmp_path / name)] * 4
    faults = []

    def keep(runs, folder):
        archive = Archive(found.archive)
        archive.keep(runs, folder)
        faults.append(archive.fault)

    threads = [threading.Thread(target=keep, args=side) for side in sides]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == [""] * 8
    names = {f.name for f in found.archive.iterdir()}
    wanted = {run.name for run in found.plan.runs}
    assert wanted <= names <= wanted | {f"{name}~2" for name in wanted}
    trained = [json.loads((found.archive / name / "run.json").read_text())["last_loss"] for name in names]
    assert len(trained) == len(names)
    assert Archive(found.archive).split(found.plan)[1] == ()


def test_two_trainings_of_one_run_stand_beside_each_other(tmp_path):
    """One target was scored on one machine, the other on another, which trained the run again."""
    values = study(tmp_path, methods=["dpo"], seeds=[1])
    first = find_study(values | {"datasets": ["embedded:compare -> embedded:cue"]}, {})
    second = find_study(values | {"datasets": ["embedded:compare -> embedded:longer"]}, {})
    both = find_study(
        values | {"datasets": ["embedded:compare -> embedded:cue", "embedded:compare -> embedded:longer"]}, {}
    )
    for number, found in enumerate((first, second)):
        plan = plan_in(tmp_path / str(number), *found.plan.runs)
        scored(plan.runs[0].config)
        (plan.runs[0].config.run_dir / "run.json").write_text(json.dumps({"last_loss": number}))
        Archive(found.archive).keep(Watch(plan, tmp_path / str(number)).look().runs, tmp_path / str(number))
    name = first.plan.runs[0].name
    assert {f.name for f in first.archive.iterdir()} == {name, f"{name}~2"}
    assert status_of(both).count("done") == 2


def test_scores_that_are_made_later_join_their_training(archived, tmp_path):
    (tmp_path / "gone").rename(tmp_path / "out")
    more = find_study(study(tmp_path, strengths=[0.5, 1.0]), {})
    plan = plan_in(more.output_dir, *more.plan.runs)
    for run in plan.runs:
        record = (run.config.run_dir / "run.json").read_bytes()
        scored(run.config, (0.5, 1.0))
        (run.config.run_dir / "run.json").write_bytes(record)
    Archive(more.archive).keep(Watch(plan, more.output_dir).look().runs, more.output_dir)
    assert len(list(archived.archive.iterdir())) == 4
    assert status_of(more).count("done") == 4


def test_runs_that_a_file_does_not_name_stay_out_of_its_archive(file_of, tmp_path, caplog):
    path = file_of(study(tmp_path))
    assert find_study(path, {"seeds": [1]}).archive == tmp_path / "kept"
    assert find_study(path, {"data.genies_dir": str(tmp_path)}).archive == tmp_path / "kept"
    assert find_study(path, {"seeds": [1]}).foreign == frozenset()
    assert len(find_study(path, {"training.lr": 1e-3}).foreign) == 4
    some = find_study(path, {"seeds": [1, 7]})
    assert some.foreign == {run.id for run in some.plan.runs if run.config.training.seed == 7}
    assert "2 of 4 runs are none of" in caplog.text
    nothing = find_study(file_of({k: v for k, v in study(tmp_path).items() if k != "datasets"}), {"datasets": ["math"]})
    assert len(nothing.foreign) == len(nothing.plan.runs) == 4
    file_of(study(tmp_path))
    assert find_study(path, {"training.lr": 1e-3}, archive=tmp_path / "mine").archive == tmp_path / "mine"


def test_what_a_file_does_not_name_is_read_from_its_archive_and_not_kept_in_it(archived, file_of, tmp_path):
    found = find_study(file_of(study(tmp_path)), {"seeds": [1, 7]})
    started = start(found)
    assert [run.planned.config.training.seed for run in started.archived] == [1, 1]
    plan = plan_in(found.output_dir, *started.open.runs)
    for run in plan.runs:
        mark(scored(run.config), run)
    assert started.look().count("done") == 4
    assert len(list(found.archive.iterdir())) == 4


def test_a_change_of_format_leaves_one_file_of_each_kind(archived, tmp_path):
    (run, *_) = archived.plan.runs
    place = archived.archive / run.name
    (tmp_path / "gone").rename(archived.output_dir)
    source = archived.output_dir / run.name
    (source / "scores.parquet").unlink()
    (source / "scores.jsonl").write_text("{}")
    assert store(source, archived.archive) == place
    assert not (place / "scores.parquet").exists()
    assert (place / "scores.jsonl").read_text() == "{}"


def test_the_table_is_of_the_archive_where_the_folder_lacks_scores(archived):
    (run, *others) = archived.plan.runs
    pretend(replace(run.config, output_dir=archived.output_dir))
    found = start(archived).scored()
    assert found == [archived.archive / one.name for one in (run, *others)]


def test_another_run_under_a_plain_name_does_not_count(tmp_path):
    """As it is when a release changes the defaults that the name stands for."""
    (run,) = plan_in(tmp_path, *find_study(study(tmp_path), {"methods": ["dpo"], "seeds": [1]}).plan.runs).runs
    folder = scored(run.config)
    assert is_done(folder, run.config)
    other = replace(run.config, training=replace(run.config.training, lr=1e-9))
    with pytest.raises(UserError, match="holds another run of this name"):
        is_done(folder, other)


def test_negative_strengths_count(tmp_path):
    (run,) = plan_in(tmp_path, *find_study(study(tmp_path), {"methods": ["dpo"], "seeds": [1]}).plan.runs).runs
    config = replace(run.config, eval=replace(run.config.eval, strengths=(-1.0, 1.0)))
    assert not is_done(scored(run.config), config)
    assert is_done(scored(run.config, (-1.0, 1.0)), config)


def test_a_set_that_a_suite_got_since_is_missing(tmp_path):
    """The id of scores holds the path of the file, not what it lists."""
    suite = tmp_path / "mine.toml"
    suite.write_text("")
    options = {"methods": ["dpo"], "seeds": [1], "eval.suite": str(suite)}
    (run,) = plan_in(tmp_path, *find_study(study(tmp_path), options).plan.runs).runs
    folder = scored(run.config)
    lists = '[[sets]]\nname = "{}"\ndataset = "{}"\n'
    for name, dataset, done in [("oos", "far", True), ("oos", "other", False), ("more", "far", False)]:
        suite.write_text(lists.format(name, dataset))
        assert is_done(folder, run.config) == done
    suite.unlink()  # an archive may outlive it
    assert is_done(folder, run.config)


def test_a_failure_of_a_run_that_another_machine_has_done_is_forgotten(archived, tmp_path):
    (run, *_) = archived.plan.runs
    record_failure(tmp_path / "out", run, ValueError("x"))
    started = start(archived)
    assert started.is_over
    assert not list(failures(tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda place: (place / "scores.parquet").unlink(), 3),
        (lambda place: (place / "scores.parquet").write_text("version https://git-lfs.github.com/spec/v1"), 3),
        (lambda place: (place / "config.yaml").write_text("method: dpo"), 3),
        (lambda place: (place / "overlap.jsonl").write_text(""), 4),
    ],
)
def test_a_spoilt_run_does_not_count_and_ends_no_sweep(archived, spoil, found):
    spoil(archived.archive / archived.plan.runs[0].name)
    assert status_of(archived).count("done") == found


def test_an_archive_that_cannot_be(archived, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file is no folder"):
        start(replace(archived, archive=tmp_path / "file"))
    with pytest.raises(UserError, match="its archive, which keeps no weights"):
        start(replace(archived, archive=archived.output_dir))
    (tmp_path / "gone").rename(tmp_path / "out")
    shutil.rmtree(archived.archive)
    archive = Archive(archived.archive)
    archived.archive.write_text("")  # it has become a file while the sweep worked
    plan = plan_in(archived.output_dir, *archived.plan.runs)
    archive.keep(Watch(plan, archived.output_dir).look().runs, archived.output_dir)
    assert archive.fault.startswith(f"cannot write {archived.archive}")


def test_the_places_of_runs_that_measured_capability_are_left_out(archived, tmp_path):
    (tmp_path / "gone").rename(tmp_path / "out")
    run = archived.output_dir / archived.plan.runs[0].name
    held = {
        "oos": {"accuracy": 0.75, "run": str(tmp_path), "note": ""},
        "far": {"accuracy": None, "run": "x", "note": "y"},
    }
    (run / "eval-01234567").mkdir()
    (run / "eval-01234567" / "capability.json").write_text(json.dumps(held))
    store(run, archived.archive)
    found = read_capability(archived.archive / run.name / "eval-01234567")
    assert found["oos"] == 0.75
    assert math.isnan(found["far"])
    assert str(tmp_path) not in (archived.archive / run.name / "eval-01234567" / "capability.json").read_text()


def test_what_a_killed_process_left_is_removed_when_it_is_old(archived, tmp_path):
    for name, age in ((".staged-new", 0), (".staged-old", 2 * 86400)):
        (archived.archive / name).mkdir()
        os.utime(archived.archive / name, (time.time() - age,) * 2)
    store(tmp_path / "gone" / archived.plan.runs[0].name, archived.archive)
    assert [f.name for f in archived.archive.glob(".staged*")] == [".staged-new"]
    assert len(Archive(archived.archive).split(archived.plan)[0]) == 4


def test_archives_of_other_studies_are_read_and_left_as_they_are(archived, tmp_path, caplog):
    """Their runs count as done, their rows stay, and they get no run."""
    values = {"seeds": [1, 3], "methods": ["dpo", {"method": "innerpo", "row": "theirs"}]}
    values |= {"archive": str(tmp_path / "mine"), "output_dir": str(tmp_path / "other")}
    before = {path: path.read_bytes() for path in archived.archive.rglob("*") if path.is_file()}
    found = find_study(study(tmp_path, other_archives=[str(archived.archive)], **values), {})
    assert status_of(found).count("done") == 2
    started = start(found)
    assert [run.planned.config.training.seed for run in started.archived] == [1, 1]
    for run in plan_in(found.output_dir, *started.open.runs).runs:
        mark(scored(run.config), run)
    assert started.look().count("done") == 4
    assert {path: path.read_bytes() for path in archived.archive.rglob("*") if path.is_file()} == before
    assert sorted(read_study(tmp_path / "mine").runs["seed"]) == [3, 3]
    assert {place.parent.name for place in started.scored()} == {"kept", "other"}
    assert "is not there" not in caplog.text
    nowhere = find_study(study(tmp_path, other_archives=[str(tmp_path / "nowhere")], **values), {})
    assert len(status_of(nowhere).runs) == 4
    assert f"{tmp_path / 'nowhere'} is not there: no run of it counts as done" in caplog.text


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"sets": ["test"]}, 4),
        ({"sets": ["oos", "test"]}, 4),
        ({"sets": ["test", "train"]}, 0),
        ({"sets": ["test"], "strengths": [0.5, 1.0]}, 0),
        ({"sets": ["test"], "options": {"eval": {"max_prompts": 7}}}, 0),
        ({"sets": ["test"], "options": {"eval": {"oos_dataset": "embedded:control"}}}, 0),
    ],
)
def test_scores_on_more_sets_than_asked_for_count(archived, tmp_path, changes, found):
    for path in archived.archive.glob("*/sets.parquet"):
        frame = pl.read_parquet(path).with_columns(pl.col("dataset").replace({"far": "embedded:compare_hard"}))
        frame.write_parquet(path)  # what the headline suite has for embedded:compare
    assert status_of(find_study(study(tmp_path, **changes), {})).count("done") == found


def test_from_the_command_line(archived, file_of, tmp_path, capsys):
    path = file_of(study(tmp_path))
    assert main(["sweep", str(path), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("archived") == 4
    assert "4 of 4 runs done" in shown
    assert not (tmp_path / "out").exists()
    assert main(["sweep", str(path)]) == 0
    shown = capsys.readouterr()
    assert "4 of them archived" in shown.err
    assert "ours" in shown.out
    assert not (tmp_path / "out").exists()
    assert not status_of(find_study(path, {}, archive=tmp_path / "other")).count("done")


@pytest.mark.slow
def test_a_report_of_an_archive(archived, tmp_path):
    assert main(["report", str(archived.archive), f"--out={tmp_path}/report.html"]) == 0
    assert "ours" in (tmp_path / "report.html").read_text()


def test_an_empty_set_that_is_to_have_every_strength_leaves_nothing_undone(tmp_path):
    """Nothing could be scored of oos; test is scored at 1 alone, as was asked for."""
    found = find_study(study(tmp_path, strengths=[0.5, 1.0], strength_sets=["oos"]), {})
    (run, *_) = plan_in(found.output_dir, *found.plan.runs).runs
    folder = scored(run.config)
    assert not is_done(folder, run.config)  # oos has rows at 1, and lacks .5
    models = {("base", 0.0): {"test": right(1, 1, 0)}, (run.config.method_label, 1.0): {"test": right(1, 1, 0)}}
    scores_of(models, DEFAULT_SETS).write(folder)
    assert is_done(folder, run.config)


def test_scores_that_cannot_be_read_are_none(tmp_path, caplog):
    """They are written anew; neither the run nor the table of the others fails over them."""
    found = find_study(study(tmp_path, archive=None), {})
    plan = plan_in(found.output_dir, *found.plan.runs)
    for run in plan.runs:
        mark(scored(run.config), run)
    (found.output_dir / plan.runs[0].name / "scores.parquet").write_bytes(b"PAR1 and no more")
    assert not is_done(found.output_dir / plan.runs[0].name, plan.runs[0].config)
    for _ in range(3):
        status_of(found)
    assert caplog.text.count("does not count as scored: cannot read") == 1
    started = start(found)
    assert started.look().count("done") == 3
    assert len(started.scored()) == 4


def test_names_of_sets_with_a_prefix_or_a_folder_are_those_of_the_scores(archived, tmp_path):
    """The archive has more: the set ``far`` under its short name."""
    for run in archived.plan.runs:
        sets = {"test": right(1, 1, 0), "far": right(1, 0, 0)}
        models = {("base", 0.0): sets, (run.config.method_label, 1.0): sets}
        scores = scores_of(models, DEFAULT_SETS | {"far": ("genies:far", "test", "extra")})
        scores.write(archived.archive / run.name)
    for names, done in ((["genies:far", "test"], 4), (["genies:near"], 0), (["b/far.jsonl"], 0)):
        assert status_of(find_study(study(tmp_path, sets=names), {})).count("done") == done


def test_options_beside_a_file_leave_the_rows_of_its_archive(archived, file_of, tmp_path, caplog):
    """``--training.lr 2e-4 4e-4``: the first is what the file trains too, and has another row here."""
    path = file_of(study(tmp_path))
    rows = {p: (p / "sweep.json").read_bytes() for p in archived.archive.iterdir()}
    found = find_study(path, {"methods": ["dpo"], "seeds": [1], "training.lr": [2e-4, 4e-4]})
    started = start(found)
    assert [run.planned.row for run in started.archived] == ["dpo (lr=0.0002)"]
    assert {p: (p / "sweep.json").read_bytes() for p in archived.archive.iterdir()} == rows
    assert "archived runs keep the rows of tables that they have there: dpo (here dpo (lr=0.0002))" in caplog.text
    caplog.clear()
    start(find_study(path, {"seeds": [1]}))
    assert "keep the rows" not in caplog.text


def test_what_a_full_disk_refuses_is_named_and_told_once(archived, tmp_path, monkeypatch, caplog):
    (tmp_path / "gone").rename(tmp_path / "out")
    shutil.rmtree(archived.archive)
    copy = shutil.copyfile

    def full(source, target):
        if "kept" in str(target):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(source), None, str(target))
        return copy(source, target)

    monkeypatch.setattr(shutil, "copyfile", full)
    archive, plan = Archive(archived.archive), plan_in(archived.output_dir, *archived.plan.runs)
    for _ in range(3):
        archive.keep(Watch(plan, archived.output_dir).look().runs, archived.output_dir)
    assert archive.fault.startswith(f"cannot write {archived.archive}")
    assert archive.fault.endswith("no space left on the device")
    assert caplog.text.count("is not archived") == 4
