"""state.json: what a process is doing with a run, so that others can tell a running run from a dead one."""

import json
import logging
import math
import os
import socket
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

import innerpo
from conftest import build_model, build_tokenizer
from innerpo import progress
from innerpo.model.base import Base
from innerpo.training import state as states
from innerpo.training.paths import STATE
from innerpo.training.state import RunState, is_alive, process_started, read_state, recorded_state

HERE = {"pid": os.getpid(), "host": socket.gethostname()}


def state_in(folder):
    return read_state((folder / STATE).read_text())


@pytest.fixture
def every_step(monkeypatch):
    monkeypatch.setattr(states, "SECONDS_BETWEEN_WRITES", 0.0)


def test_progress_is_written_passed_on_and_removed_at_the_end(tmp_path, every_step):
    heard = []

    class Spy:
        def task(self, what, total):
            heard.append((what, total))
            return progress.nullcontext(lambda done, note="": heard.append((done, note)))

    with progress.reporting(Spy()), recorded_state(tmp_path, "training"), progress.task("training", 10) as update:
        assert (state_in(tmp_path).phase, state_in(tmp_path).done) == ("training", -1)
        update(4, "loss 0.5")
        update(6)
        found = state_in(tmp_path)
        assert (found.task, found.first, found.done, found.total) == ("training", 4, 6, 10)
        assert (found.pid, found.host, is_alive(found)) == (os.getpid(), socket.gethostname(), True)
        assert found.started <= found.first_time <= found.updated
    assert heard == [("training", 10), (4, "loss 0.5"), (6, "")]
    assert list(tmp_path.iterdir()) == []


def test_at_most_one_write_in_two_seconds_and_one_at_the_end_of_a_task(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(states, "write_text", lambda path, text: written.append(json.loads(text).get("done", -1)))
    with recorded_state(tmp_path, "scoring"):
        list(progress.track(range(50), "dpo on math (test)"))
    assert written == [-1, 50]


def test_time_left_is_that_of_the_pace_since_the_first_report():
    state = RunState("training", **HERE, done=6, total=10, first=4, first_time=100.0, updated=103.0)
    assert state.seconds_left == 6.0  # 1.5 s a step, 4 to go
    assert math.isnan(replace(state, done=4).seconds_left)
    assert math.isnan(replace(state, total=-1).seconds_left)
    assert math.isnan(RunState("training", **HERE).seconds_left)


@pytest.mark.parametrize(
    ("raised", "phase", "error"),
    [(ValueError("no\nsuch thing"), "failed", "no such thing"), (KeyboardInterrupt(), "interrupted", "")],
)
def test_a_failure_stays_written(tmp_path, raised, phase, error):
    (tmp_path / "config.yaml").touch()
    with pytest.raises(type(raised)), recorded_state(tmp_path, "training"):
        raise raised
    assert (state_in(tmp_path).phase, state_in(tmp_path).error) == (phase, error)


def test_a_folder_that_was_made_for_the_state_alone_goes_when_it_fails(tmp_path):
    def work():
        with recorded_state(tmp_path / "eval-1", "scoring"):
            assert state_in(tmp_path / "eval-1").phase == "scoring"
            raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        work()
    assert list(tmp_path.iterdir()) == []


def test_a_state_that_cannot_be_written_is_logged_once_and_stops_nothing(tmp_path, caplog, every_step):
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING), recorded_state(tmp_path / "file" / "run", "scoring"):
        assert list(progress.track(range(3), "x")) == [0, 1, 2]
    assert len(caplog.records) == 1
    assert "others cannot see the progress" in caplog.text


def test_only_one_of_several_processes_writes(tmp_path):
    with recorded_state(tmp_path, "training", write=False):
        assert list(tmp_path.iterdir()) == []


def test_a_process_that_ended_is_told_from_one_that_runs():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        state = RunState("training", child.pid, socket.gethostname(), process_started(child.pid))
        assert is_alive(state) is True
        assert is_alive(replace(state, process_started=state.process_started - 1)) is False  # another with its number
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert is_alive(state) is False  # ended, and nobody has asked for its exit code yet
    assert is_alive(state) is False
    assert is_alive(replace(state, host="elsewhere")) is None
    assert is_alive(replace(state, pid=2**40)) is False


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"phase": "resting", "pid": 1, "host": "a"}', '{"phase": "training", "pid": "1", "host": "a"}',  # noqa: E501
     '{"phase": "training", "host": "a"}', '{"phase": "training", "pid": 1, "host": "a", "done": 1.5}'],
)  # fmt: skip
def test_what_is_no_state_is_a_value_error(text):
    with pytest.raises(ValueError):
        read_state(text)


def test_unknown_keys_are_of_a_later_version_and_left_out():
    assert read_state('{"phase": "failed", "pid": 1, "host": "a", "new": 1}') == RunState("failed", 1, "a")


def test_a_run_writes_its_planned_steps_while_it_trains_and_scores(tmp_path, monkeypatch, every_step):
    torch.manual_seed(0)
    seen = []
    write = states.write_text

    def spy(path, text):
        write(path, text)
        state = read_state(text)
        seen.append((state.phase, state.task, state.done, state.total))

    monkeypatch.setattr(states, "write_text", spy)
    options = {
        "model.lora_r": 2, "data.cache_dir": tmp_path / "cache", "output_dir": tmp_path, "data.max_train_prompts": 8,
        "data.batch_size": 4, "training.epochs": 2, "eval.max_prompts": 2,
    }  # fmt: skip
    base = Base(build_model(), build_tokenizer(), "toy", "toy")
    run = innerpo.train(base, "dpo", data="embedded:compare", **options)
    assert [s for s in seen if s[0] == "training"] == [
        ("training", "", -1, -1), *(("training", "training", step, 4) for step in range(5))
    ]  # fmt: skip
    scoring = [s for s in seen if s[0] == "scoring"]
    assert scoring[0] == ("scoring", "", -1, -1)
    assert {s[1:] for s in scoring[1:]} >= {("scoring dpo", 2, 8), ("scoring dpo", 8, 8)}  # four sets of two prompts
    assert not list(run.folder.glob("*state*"))
