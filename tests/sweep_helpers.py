"""Sweeps for tests: plans of small runs, and runs that train nothing but write what a run writes."""

import functools
import json
from dataclasses import replace

from conftest import build_model, build_tokenizer
from innerpo.config.identity import run_id
from innerpo.config.run import default_run, to_dict
from innerpo.config.yaml import as_yaml, nested, overlay
from innerpo.experiments.plan import PlannedRun, in_folder, ordered
from innerpo.model.base import Base

SMALL = {"data.max_train_prompts": 6, "data.batch_size": 3, "training.save_steps": 1, "eval.max_prompts": 4}


def planned(method="dpo", seed=1, dataset="embedded:compare", row="", group=0, **options):
    config = overlay(default_run(method), nested(SMALL | options), "test")
    data, training = replace(config.data, dataset=dataset), replace(config.training, seed=seed)
    return PlannedRun(replace(config, data=data, training=training), row or method, group)


def plan_in(folder, *runs):
    return in_folder(ordered(runs), folder)


def unscored(n=3, **options):
    """Runs that are done when they are trained."""
    return [planned(seed=seed, **{"eval.skip": True}, **options) for seed in range(1, n + 1)]


def pretend(config, base=None, steps=3, between=lambda step: None):
    """Write what a training writes, step by step, going on where an earlier attempt stopped."""
    folder = config.run_dir
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "config.yaml").exists():
        (folder / "config.yaml").write_text(as_yaml(to_dict(config) | {"run_id": run_id(config)}))
    log = folder / "metrics.jsonl"
    first = len(log.read_text().splitlines()) if log.exists() else 0
    for step in range(first, steps):
        between(step)
        with log.open("a") as file:
            file.write(json.dumps({"step": step}) + "\n")
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    (folder / "run.json").write_text(json.dumps({"run_id": run_id(config), "seconds": 1.0}))


@functools.cache
def any_base():
    """A base model, for runs that compute nothing."""
    return Base(build_model(), build_tokenizer(), "toy", "toy-identity")
