"""The archive of a study: what it keeps of runs; a sweep goes on from it, also when configs have changed since."""

import json
import threading

import pytest

import innerpo
from innerpo.cli.verbs import main
from innerpo.config.yaml import as_yaml, read_yaml
from innerpo.experiments.archive import Archive
from innerpo.experiments.attempt import mark
from innerpo.experiments.status import Watch
from innerpo.experiments.sweep import find_study, start, status_of
from innerpo.experiments.worker import work
from study_helpers import DEFAULT_SETS, right, scores_of
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
    other = find_study(study(tmp_path, sets=["test"]), {})
    assert not Archive(archived.archive).split(other.plan)[0]


def test_rows_are_those_of_the_study_at_hand(archived, tmp_path):
    renamed = study(tmp_path, methods=[{"method": "dpo", "row": "plain"}, "innerpo"])
    assert status_of(find_study(renamed, {})).count("done") == 4
    assert set(innerpo.table(archived.archive).rows) == {"base", "dpo", "ours"}  # to look changes nothing
    start(find_study(renamed, {}))
    assert set(innerpo.table(archived.archive).rows) == {"base", "plain", "innerpo"}


def test_two_sweeps_that_archive_at_once(tmp_path):
    found = find_study(study(tmp_path), {})
    plan = plan_in(found.output_dir, *found.plan.runs)
    for run in plan.runs:
        scored(run.config)
    runs, faults = Watch(plan, found.output_dir).look().runs, []

    def keep():
        try:
            Archive(found.archive).keep(runs, found.output_dir)
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=keep) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    assert sorted(f.name for f in found.archive.iterdir()) == sorted(run.name for run in plan.runs)


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
