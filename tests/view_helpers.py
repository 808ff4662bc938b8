"""Folders of runs as they are while a training writes them."""

import json
import os
import socket
import time

from innerpo.training.state import RunState, process_started

CONFIG = """\
method: {name: dpo, alpha: 0.0}
model: {base_model: toy}
data: {dataset: 'embedded:longer'}
training: {seed: 1, epochs: 2.0, max_steps: 0}
"""
LINES = [
    {"step": 1, "loss": 0.75, "rewards/accuracies": 0.5, "epoch": 0.25},
    {"step": 2, "loss": 0.5, "rewards/accuracies": 0.75, "epoch": 0.5},
]


def estimate(mean):
    return {"mean": mean, "low": mean - 0.1, "high": mean + 0.1, "n": 10, "clusters": 10}


HEADLINE = {"mean_logp": {
    "base": {"test": estimate(0.5), "oos": estimate(0.25)},
    "dpo": {"test": estimate(0.875), "oos": {"mean": float("nan")}},
    "columns": {"test": "embedded:longer (test), 10 pairs"},
}}  # fmt: skip


def write_config(folder, text=CONFIG):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(text)
    return folder


def write_log(folder, lines=LINES, torn=""):
    with (folder / "metrics.jsonl").open("a") as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines) + torn)


def write_state(folder, **values):
    """A state.json of this very process, which is alive, unless something else is said."""
    own = {"pid": os.getpid(), "host": socket.gethostname(), "process_started": process_started(os.getpid())}
    state = {"phase": "training", "updated": time.time(), "started": time.time()} | own | values
    assert RunState(**state)
    (folder / "state.json").write_text(json.dumps(state))


def finished(folder):
    """A run that was trained and scored."""
    write_config(folder)
    write_log(folder)
    (folder / "run.json").write_text(json.dumps({"method": "dpo", "dataset": "embedded:longer", "steps": 8}))
    (folder / "headline.json").write_text(json.dumps(HEADLINE))
    return folder


def training(folder, done=2, total=8):
    """A run that this process is training."""
    write_config(folder)
    write_log(folder)
    now = time.time()
    write_state(folder, task="training", done=done, total=total, first=0, first_time=now - 10, updated=now)
    return folder


def drawn_rows(drawn):
    """The data of a chart's specification."""
    (rows,) = drawn["spec"]["datasets"].values()
    assert len(rows) == drawn["points"]
    return rows
