"""Trackers, each with its real library and without a network: a run's name, config, metrics and group."""

import importlib.util
import json
import shutil
import time
from dataclasses import replace

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from innerpo import registry
from innerpo.cli.verbs import main
from innerpo.config.run import default_run
from innerpo.errors import UserError
from innerpo.training.arguments import training_arguments
from innerpo.training.trackers import check_trackers, tracked, tracked_run

pytestmark = pytest.mark.filterwarnings("default")  # of the trackers' own libraries


def needs(name):
    return pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is not installed ([trackers])")


@pytest.fixture
def words(toy_folder, tmp_path, monkeypatch):
    for name in ("WANDB_DIR", "WANDB_PROJECT", "MLFLOW_TRACKING_URI", "TENSORBOARD_LOGGING_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    words = [f"--model.base_model={toy_folder}", "--data.dataset=embedded:longer", "--data.max_train_prompts=16"]
    words += ["--eval.skip", "--training.log_steps=1", "--training.save_steps=0", "--training.report_group=study"]
    return [*words, f"--output_dir={tmp_path / 'out'}", f"--data.cache_dir={tmp_path / 'cache'}"]


def train(words, tmp_path, *more):
    assert main(["train", "dpo", *words, *more]) == 0
    (folder,) = [p for p in (tmp_path / "out").iterdir() if p.name.startswith("dpo_")]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return folder, [line for line in lines if "loss" in line]


def second_run(tmp_path, name, fails=False):
    """Another run of the group, as far as a tracker can tell."""
    config = default_run("dpo")
    training = replace(config.training, seed=2, report_to=(name,), report_group="study")
    config = replace(config, training=training, output_dir=tmp_path / "out")
    config.run_dir.mkdir(parents=True)
    state = TrainerState(global_step=3, is_world_process_zero=True)
    with tracked(config) as (callback,):
        args = TrainingArguments(output_dir=str(tmp_path / "args"), report_to="none", use_cpu=True)
        callback.on_train_begin(args, state, TrainerControl())
        callback.on_log(args, state, TrainerControl(), logs={"loss": 0.5, "note": "text"})
        if fails:
            raise ValueError("stopped")
    return config


@needs("tensorboard")
def test_tensorboard(words, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, lines = train(words, tmp_path, "--training.report_to", "tensorboard")
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert [e.value for e in events.Scalars("train/loss")] == pytest.approx([line["loss"] for line in lines])
    assert [e.step for e in events.Scalars("train/rewards/margins")] == [line["step"] for line in lines]


@needs("mlflow")
def test_mlflow(words, tmp_path):
    from mlflow.tracking import MlflowClient

    folder, lines = train(words, tmp_path, "--training.report_to", "mlflow")
    other = second_run(tmp_path, "mlflow")
    client = MlflowClient(tracking_uri=(tmp_path / "out" / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("study")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {folder.name, other.run_name}
    own = runs[folder.name]
    logged = client.get_metric_history(own.info.run_id, "loss")
    assert "loss.output" in own.data.metrics
    assert {m.step: m.value for m in logged} == pytest.approx({line["step"]: line["loss"] for line in lines})
    assert own.data.params["training.lr"] == "0.0002"
    assert own.data.params["method.name"] == "dpo"
    assert own.data.tags["group"] == "study"
    assert {run.info.status for run in runs.values()} == {"FINISHED"}


@needs("mlflow")
def test_workers_that_begin_at_once_share_an_experiment(tmp_path, monkeypatch):
    """Another one makes it between this one's look and its request."""
    from mlflow.tracking import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    first = second_run(tmp_path, "mlflow")
    look, seen = MlflowClient.get_experiment_by_name, []

    def late(client, name):
        seen.append(name)
        return None if len(seen) == 1 else look(client, name)

    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", late)
    shutil.rmtree(first.run_dir)
    second_run(tmp_path, "mlflow")
    assert seen == ["study", "study"]


@needs("mlflow")
def test_a_run_that_fails_is_closed_as_failed(words, tmp_path):
    from mlflow.tracking import MlflowClient

    with pytest.raises(ValueError, match="stopped"):
        second_run(tmp_path, "mlflow", fails=True)
    client = MlflowClient(tracking_uri=(tmp_path / "out" / "mlruns").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("study").experiment_id])
    assert run.info.status == "FAILED"


def records(folder, patience=60):
    """What an offline run of wandb would send. Its service writes the end a moment after the run is finished."""
    from wandb.proto import wandb_internal_pb2

    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    found, until = [], time.monotonic() + patience
    while not any(record.HasField("exit") for record in found):
        assert time.monotonic() < until, "wandb wrote no end of the run"
        time.sleep(0.05)
        found = [wandb_internal_pb2.Record.FromString(data) for data in log_records(path.read_bytes())]
    return found


def log_records(data, header=7, block=32768):
    """The records of a file in LevelDB's log format: pieces with a checksum, a length and a kind, in blocks."""
    at, whole = header, b""
    while at + 7 <= len(data):
        if block - at % block < 7:  # a block's end that no header fits into
            at += block - at % block
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # all of a record, or its last piece
            yield whole
            whole = b""


@needs("wandb")
def test_wandb_offline(words, tmp_path):
    folder, lines = train(words, tmp_path, "--training.report_to", "wandb")
    other = second_run(tmp_path, "wandb")
    for run in (folder, other.run_dir):
        begun = next(r.run for r in records(run) if r.HasField("run"))
        assert (begun.project, begun.run_group, begun.display_name) == ("innerpo", "study", run.name)
        config = {item.key: json.loads(item.value_json) for item in begun.config.update}
        assert config["training.report_group"] == "study"
    values = {}
    for record in records(folder):
        if record.HasField("history"):
            items = {(i.key or i.nested_key[0]): json.loads(i.value_json) for i in record.history.item}
            values |= {items["_step"]: items["loss"]} if "loss" in items else {}
    assert values == pytest.approx({line["step"]: line["loss"] for line in lines})


@needs("trackio")
def test_trackio(words, tmp_path, monkeypatch, capsys):
    from pathlib import Path

    from trackio import utils
    from trackio.sqlite_storage import SQLiteStorage

    for module in (utils, __import__("trackio.sqlite_storage", fromlist=["x"])):
        monkeypatch.setattr(module, "TRACKIO_DIR", Path(tmp_path / "trackio"), raising=False)
    folder, lines = train(words, tmp_path, "--training.report_to", "trackio")
    other = second_run(tmp_path, "trackio")
    assert "rackio" not in capsys.readouterr().out
    assert {folder.name, other.run_name} <= set(SQLiteStorage.get_runs("innerpo"))
    logged = SQLiteStorage.get_logs("innerpo", folder.name)
    found = {row["step"]: row["loss"] for row in logged if "loss" in row}
    assert found == pytest.approx({line["step"]: line["loss"] for line in lines})
    config = SQLiteStorage.get_run_config("innerpo", folder.name)
    assert config["method.name"] == "dpo"
    assert config["_Group"] == "study"


def test_what_a_tracker_is_told():
    config = default_run("innerpo")
    config = replace(config, training=replace(config.training, report_group="study"))
    told = tracked_run(config)
    assert (told.name, told.group) == ("innerpo-none_math_seed1", "study")
    assert told.config["training.lr"] == 2e-4
    assert told.config["eval.strengths"] == "(1.0,)"
    assert len(told.config["run_id"]) == 12


@pytest.mark.parametrize(("place", "group"), [("out", ""), ("out/.sweep/attempts/1", "out")])
def test_runs_of_a_sweep_lie_together(tmp_path, place, group):
    config = replace(default_run("dpo"), output_dir=tmp_path / place)
    assert tracked_run(config).group == group
    named = replace(config, training=replace(config.training, report_group="study"))
    assert tracked_run(named).group == "study"


def with_trackers(*names):
    config = default_run("dpo")
    return replace(config, training=replace(config.training, report_to=names))


def test_unknown_and_missing_trackers_are_refused_early(monkeypatch, tmp_path):
    with pytest.raises(UserError, match="unknown tracker 'wandbb'; did you mean 'wandb'"):
        check_trackers(with_trackers("wandbb"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"mlflow is not installed; pip install 'innerpo\[trackers\]'"):
        training_arguments(replace(with_trackers("mlflow"), output_dir=tmp_path))


def test_a_tracker_of_ones_own(monkeypatch, tmp_path):
    seen = []

    class Mine:
        def __init__(self, run):
            seen.append(run.name)

        def log(self, metrics, step):
            seen.append((step, metrics))

        def finish(self, succeeded):
            seen.append(succeeded)

    monkeypatch.setitem(registry.TRACKERS, "json", Mine)  # the name of a package that is there
    config = second_run(tmp_path, "json")
    assert seen == [config.run_name, (3, {"loss": 0.5}), True]


@pytest.mark.parametrize("where", ["log", "finish"])
def test_a_tracker_that_fails_on_the_way_is_told_no_more(where, monkeypatch, tmp_path, caplog):
    seen = []

    class Weak:
        def __init__(self, run):
            pass

        def log(self, metrics, step):
            seen.append("log")
            if where == "log":
                raise ConnectionError("no route\nto host")

        def finish(self, succeeded):
            seen.append("finish")
            raise OSError("too late")

    monkeypatch.setitem(registry.TRACKERS, "json", Weak)
    second_run(tmp_path, "json")
    assert seen == (["log"] if where == "log" else ["log", "finish"])
    said = {"log": "ConnectionError: no route to host", "finish": "OSError: too late"}[where]
    assert f"json gets nothing more of this run: {said}; metrics.jsonl has all of it" in caplog.text


def test_a_tracker_that_cannot_begin_is_an_error_of_one_line(monkeypatch, tmp_path):
    def refuse(run):
        raise RuntimeError("no API key\nconfigured")

    monkeypatch.setitem(registry.TRACKERS, "json", refuse)
    with pytest.raises(UserError, match=r"^training.report_to: json could not begin a run: RuntimeError: no API key c"):
        second_run(tmp_path, "json")


def test_a_callback_of_transformers_that_cannot_be_made_is_refused_early(monkeypatch):
    def missing():
        raise RuntimeError("CometCallback requires comet-ml to be installed.")

    monkeypatch.setitem(INTEGRATION_TO_CALLBACK, "comet_ml", missing)
    with pytest.raises(UserError, match=r"training.report_to: comet_ml: RuntimeError: CometCallback requires"):
        check_trackers(with_trackers("comet_ml"))


def test_trackers_keep_what_attempts_and_trials_leave(tmp_path):
    """The store is that of the whole sweep or search, and a trial's own files stay when its folder goes."""
    config = default_run("dpo")
    attempt = tracked_run(replace(config, output_dir=tmp_path / ".sweep" / "attempts" / "1"))
    assert attempt.store == tmp_path
    assert attempt.folder == tmp_path / ".sweep" / "attempts" / "1" / config.run_name  # becomes the run's folder
    assert attempt.config["output_dir"] == str(tmp_path)
    trial = tmp_path / ".sweep" / "trials" / "trial-0003" / ".sweep" / "attempts" / "1"
    of_trial = tracked_run(replace(config, output_dir=trial))
    assert (of_trial.store, of_trial.folder) == (tmp_path, tmp_path / "trackers" / "trial-0003")
