"""Searches for tests: trials that train nothing, but whose value is known from what they try."""

import functools
import math
import os
import signal

from innerpo.config.run import default_run
from innerpo.config.yaml import nested, overlay
from innerpo.experiments.tuning.objective import Measure
from innerpo.experiments.tuning.request import tune_request
from innerpo.experiments.tuning.work import Budget, work

SMALL = {"data.max_train_prompts": 6, "data.batch_size": 3, "training.save_steps": 1, "eval.max_prompts": 6}


def request_of(method="dpo", dataset="embedded:compare", options=None, **given):
    config = overlay(default_run(method), nested({"data.dataset": dataset, **SMALL, **(options or {})}), "test")
    return tune_request(config, **given)


def value_of(config):
    """Best at lr 5e-4, beta 0.3."""
    lr, beta = math.log10(config.training.lr), math.log10(config.method.beta)
    return 1.0 - 0.2 * (lr - math.log10(5e-4)) ** 2 - 0.1 * (beta - math.log10(0.3)) ** 2


def pretend(config, look, steps=6, between=lambda step: None):
    """A trial whose value rises to what its options are worth, and which is asked twice whether it goes on."""
    config.run_dir.mkdir(parents=True, exist_ok=True)
    (config.run_dir / "config.yaml").write_text("{}")
    for step in range(1, steps + 1):
        between(step)
        if step in (2, 4) and not look(step, lambda s=step: value_of(config) * s / steps):
            nan = float("nan")
            return Measure(nan, nan, nan, step, pruned=True)
    return Measure(value_of(config), value_of(config), 0.1, steps)


def searched(folder, trials, request=None, objective=pretend, **options):
    return work(folder, request or request_of(), Budget(trials), objective, **options)


def facts(trials):
    """What must not depend on kills: all but the time."""
    return [(t.number, dict(t.params), t.state, t.value, dict(t.looks)) for t in trials]


def killed_in(folder, trials, trial, step, request=None):
    """A search that dies by SIGKILL at a step of a trial; to be called in a process of its own."""

    def between(number, at):
        if (number, at) == (trial, step):
            os.kill(os.getpid(), signal.SIGKILL)

    def objective(config, look):
        number = int(config.output_dir.parents[2].name.removeprefix("trial-"))
        return pretend(config, look, between=functools.partial(between, number))

    searched(folder, trials, request, objective)
