"""Killed in mid-training and resumed: the same adapter to the bit. Each kill hits a real process of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from conftest import make_pairs, run_in
from innerpo.cli.verbs import main
from source_helpers import write_jsonl

EPOCHS = 4  # 10 steps each, or 5 with accumulation: long enough to be caught in the middle


@pytest.fixture(scope="module")
def command(tmp_path_factory, toy_folder):
    """The words of a training run on 40 toy pairs; the cache is warm after the first."""
    folder = tmp_path_factory.mktemp("resume")
    rows = [{"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected, "split": "train"} for p in make_pairs(40)]
    data = write_jsonl(folder / "toy.jsonl", rows)

    def words(method, out, *flags):
        options = {
            "model.base-model": toy_folder,
            "model.dtype": "float32",
            "data.dataset": data,
            "data.batch-size": 4,
            "data.cache-dir": folder / "cache",
            "training.epochs": EPOCHS,
            "training.save-steps": 2,
            "training.log-steps": 1,
            "output-dir": out,
        }
        return ["train", method, "--eval.skip", *(f"--{k}={v}" for k, v in options.items()), *flags]

    return words


@contextmanager
def process(words):
    """A run in its own process, with the thread count of the tests: another would add in another order."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", "innerpo", *words], stderr=subprocess.PIPE, text=True, env=environment
    ) as running:
        try:
            yield running
        finally:
            running.kill()


def number_of(path):
    return int(path.name.partition("-")[2] or 0)


def wait_for(running, folder, pattern, least=0):
    """Return as soon as something of that name is in the folder, while the process still runs."""
    end = time.monotonic() + 120
    while not any(number_of(p) >= least for p in folder.glob(pattern)):
        assert running.poll() is None, running.stderr.read()
        assert time.monotonic() < end, f"no {pattern} within two minutes"
        time.sleep(0.002)


def kill(running):
    assert running.poll() is None, "it ended before it could be killed"
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL


def adapter(folder):
    return (folder / "adapter_model.safetensors").read_bytes()


def steps_logged(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]


def assert_same_run(resumed, whole, steps):
    assert adapter(resumed) == adapter(whole)
    assert [step for step, _ in steps_logged(resumed)] == list(range(1, steps + 1))
    assert steps_logged(resumed) == steps_logged(whole)
    assert sorted(p.name for p in resumed.iterdir()) == sorted(p.name for p in whole.iterdir())
    assert not [p for p in resumed.rglob("*") if p.name.startswith(".") or p.name == "checkpoints"]


@pytest.mark.parametrize(
    ("method", "name", "flags", "steps"),
    [
        ("innerpo", "innerpo-none_toy_seed1", [], 40),
        pytest.param(
            *("dpo", "dpo_toy_seed1", ["--training.gradient-accumulation=2", "--model.lora-dropout=0.1"], 20),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_killed_in_mid_training_and_resumed_gives_the_same_adapter(
    command, tmp_path, capsys, method, name, flags, steps
):
    least = steps // EPOCHS + 1  # in the second epoch
    with process(command(method, tmp_path / "cut", *flags)) as running:
        wait_for(running, tmp_path / "cut", f"{name}+*/checkpoints/checkpoint-*", least=least)
        kill(running)
    cut = run_in(tmp_path / "cut", name)
    assert not (cut / "adapter_model.safetensors").exists()
    (cut / "checkpoints" / ".partial" / "checkpoint-99").mkdir(parents=True, exist_ok=True)  # a kill while it saved
    assert main(command(method, tmp_path / "whole", *flags)) == 0
    whole = run_in(tmp_path / "whole", name)
    capsys.readouterr()
    assert main(command(method, cut.parent, "--training.resume", *flags)) == 0
    err = capsys.readouterr().err
    resumed_at = int(err.split("resuming from step ")[1].split()[0])
    assert steps // EPOCHS < resumed_at < steps
    assert resumed_at % 2 == 0
    assert_same_run(cut, whole, steps)


@pytest.mark.slow
def test_killed_before_the_first_checkpoint_and_resumed(command, tmp_path, capsys):
    with process(command("dpo", tmp_path / "cut", "--training.save-steps=1000")) as running:
        wait_for(running, tmp_path / "cut", "dpo_toy_seed1+*/metrics.jsonl")
        kill(running)
    cut = run_in(tmp_path / "cut", "dpo_toy_seed1")
    assert not (cut / "checkpoints").exists() or not list((cut / "checkpoints").iterdir())
    assert main(command("dpo", tmp_path / "whole")) == 0
    whole = run_in(tmp_path / "whole", "dpo_toy_seed1")
    capsys.readouterr()
    assert main(command("dpo", cut.parent, "--training.resume")) == 0
    assert "nothing to resume from; starting at step 0" in capsys.readouterr().err
    assert_same_run(cut, whole, 40)


def test_an_interrupt_is_one_line_and_leaves_what_can_be_resumed(command, tmp_path):
    out = tmp_path / "out"
    # More steps than it can make before the signal arrives, however busy the machine is.
    with process(command("dpo", out, "--training.max-steps=5000")) as running:
        wait_for(running, out, "dpo_toy_seed1+*/checkpoints/checkpoint-*")
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=60)
    assert running.returncode == 130
    last = err.splitlines()[-1]
    assert last.startswith("error: interrupted")
    assert "--training.resume" in last
    assert err.count("error:") == 1
    assert "Traceback" not in err
    assert list((run_in(out, "dpo_toy_seed1") / "checkpoints").glob("checkpoint-*"))
