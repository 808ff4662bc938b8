"""Folders of scored runs made from a few numbers, for tests of what is read from many runs."""

import functools
import math
from dataclasses import replace

import polars as pl

from innerpo.config.run import default_run, to_dict
from innerpo.config.yaml import as_yaml
from innerpo.evaluation.facts import PAIRS, RESPONSES, SETS, Scores

NAN = float("nan")
NEAR = {"set": "test", "train": 3, "target": 5, "similarity": 1.0} | dict.fromkeys(
    ("train_text", "target_text"), "How?"
)
"""A line of overlap.jsonl."""
DEFAULT_SETS = {"test": ("toy", "test", "test"), "oos": ("far", "test", "oos")}
"""Name of a set to its data set, split and role."""
NEAR = {"set": "test", "train": 3, "target": 5, "similarity": 1.0, "train_text": "How many", "target_text": "How many"}
"""A line of overlap.jsonl."""


@functools.cache
def config_of(method="dpo", seed=1, source="toy", lr=2e-4):
    config = default_run(method)
    training = replace(config.training, seed=seed, lr=lr)
    return replace(config, data=replace(config.data, dataset=source), training=training)


def rows_of(model, strength, name, dataset, split, prompt, logps, reference="base-1", tokens=None, **facts):
    """One row of RESPONSES per response of a prompt."""
    usual = {"tokens": 1, "characters": 5, "inner": NAN, "abs_log_ratio": 0.0} | facts
    return [
        {"model": model, "strength": strength, "reference": reference, "set": name, "dataset": dataset, "split": split}
        | {"prompt": prompt, "response": i, "logp": float(logp)}
        | {k: v[i] if isinstance(v, list) else v for k, v in (usual | ({"tokens": tokens} if tokens else {})).items()}
        for i, logp in enumerate(logps)
    ]


def scores_of(models, sets=DEFAULT_SETS, reference="base-1", near=0, **facts):
    """Scores from {(model, strength): {set: {prompt: [logp of each response]}}}; response 0 is the chosen one."""
    rows, pairs, described = [], [], []
    for (model, strength), by_set in models.items():
        for name, prompts in by_set.items():
            dataset, split, _ = sets[name]
            for prompt, logps in prompts.items():
                rows += rows_of(model, strength, name, dataset, split, prompt, logps, reference, **facts)
    for name, (dataset, split, role) in sets.items():
        prompts = {p: v for by_set in models.values() for p, v in by_set.get(name, {}).items()}
        found = [(name, f"{dataset}/{p}/{r}", p, 0, r) for p, logps in prompts.items() for r in range(1, len(logps))]
        pairs += found
        described.append((name, dataset, split, role, "", "", len(found), len(prompts), 0, near, ""))
    frames = (pl.DataFrame(rows, RESPONSES), pl.DataFrame(pairs, PAIRS, orient="row"))
    return Scores(*frames, pl.DataFrame(described, SETS, orient="row"))


def write_run(folder, scores, config=None):
    """Write a run's folder: its scores and, if there is one, its config."""
    folder.mkdir(parents=True, exist_ok=True)
    scores.write(folder)
    if config is not None:
        (folder / "config.yaml").write_text(
            yaml_of(config.method.name, config.training.seed, config.data.dataset, config.training.lr)
        )
    return folder


@functools.cache
def name_of(method, seed, **options):
    """The folder's name of a run."""
    return config_of(method, seed, **options).run_name


@functools.cache
def yaml_of(method, seed, source, lr):
    """The YAML of a config of ``config_of``: writing it takes longer than all else that a test does."""
    return as_yaml(to_dict(config_of(method, seed, source, lr)))


def right(*outcomes, prefix="p"):
    """Prompts of two responses with these outcomes: 1 right, 0 wrong, .5 a tie."""
    return {f"{prefix}{i}": [{1: -1, 0: -3, 0.5: -2}[o], -2] for i, o in enumerate(outcomes)}


def run_of(root, method, seed, test, oos, base_test, base_oos, **options):
    """Write a run of the sets test and oos, with these outcomes; return its folder."""
    config = config_of(method, seed, **options)
    models = {
        ("base", 0.0): {"test": right(*base_test), "oos": right(*base_oos)},
        (config.method_label, 1.0): {"test": right(*test), "oos": right(*oos)},
    }
    return write_run(root / name_of(method, seed, **options), scores_of(models), config)


def same(a, b):
    """Equal numbers, NaN equal to NaN."""
    return all(x == y or (math.isnan(x) and math.isnan(y)) for x, y in zip(a, b, strict=True))
