"""Folders of runs with made-up scores, for the report: real files, real data sets, no model."""

import json
from dataclasses import replace

import numpy as np
import polars as pl

from innerpo.config.data import DataConfig
from innerpo.config.identity import run_id
from innerpo.config.run import default_run, to_dict
from innerpo.config.yaml import as_yaml
from innerpo.data.training_pairs import load_split
from innerpo.evaluation.facts import PAIRS, RESPONSES, SETS, Scores

HOSTILE = "<script>alert(1)</script> </script><!-- & <b>bold</b> {{ 7 * 7 }} \u2028 x"
"""A prompt that would run, end a script, begin a comment or be filled in, if it were not treated as text."""
NEAR = 2
"""Prompts of target0 that differ from a training prompt in punctuation only."""


def write_data(folder, name, prompts, responses=2, hostile=False):
    """A data set as one jsonl file, its rows all in the test split but a few."""
    rows = []
    for i in range(prompts):
        prompt = HOSTILE if hostile and i == 0 else f"Question {i} of {name}: what follows from premise {i * 7 % 11}?"
        for r in range(1, responses):
            rows.append(
                {"prompt": prompt, "chosen": f"Answer {i}, with care.", "rejected": f"Answer {i}.{r}", "split": "test"}
            )
    near = [f"Question {i} of target0; what follows from premise {i * 7 % 11}" for i in range(NEAR)]
    trained = [*near, *(f"Training sentence {i} about {name} in general" for i in range(8))]
    rows += [{"prompt": prompt, "chosen": "yes", "rejected": "no", "split": "train"} for prompt in trained]
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_run(out, method, seed, sets, better=0.3, strengths=(1.0,), layers=4):
    """A run's folder. ``sets``: (set, data set, role, kind); ``better``: how much the policy's margins rise."""
    config = default_run(method)
    source = next(dataset for _, dataset, role, _ in sets if role == "test")
    config = replace(
        config,
        data=replace(config.data, dataset=str(source)),
        training=replace(config.training, seed=seed),
        output_dir=out,
    )
    folder = out / f"{method}_seed{seed}"
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    parts, pairs, about = [], [], []
    for number, (name, dataset, role, kind) in enumerate(sets):
        loaded = load_split(str(dataset), "test", DataConfig())
        ours = [(name, p.id, p.cluster, 0, 1 + i) for i, p in _numbered(loaded)]
        pairs += ours
        rise = better if role in ("train", "test") else better * (0.6 - 0.15 * number)
        parts += _responses(name, str(dataset), ours, method, rise, strengths, number, random)
        prompts = len({p.cluster for p in loaded})
        about.append(
            (name, str(dataset), "test", role, kind, "", len(ours), prompts, 0, NEAR if name == "target0" else 0, "")
        )
    scores = Scores(pl.concat(parts), pl.DataFrame(pairs, PAIRS, orient="row"), pl.DataFrame(about, SETS, orient="row"))
    scores.write(folder)
    (folder / "config.yaml").write_text(as_yaml(to_dict(config) | {"run_id": run_id(config), "inputs": "0"}))
    record = {"run_id": run_id(config), "method": method, "base_model": "toy", "dataset": str(source), "n_pairs": 8}
    (folder / "run.json").write_text(json.dumps(record | {"versions": {"torch": "2.0", "python": "3.11"}, "steps": 40}))
    log = [
        {"step": s, "loss": 0.7 / (1 + s * 0.1) + 0.01 * seed, "rewards/accuracies": min(1.0, 0.5 + s / 60)}
        for s in range(1, 41)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))
    blocks = [
        {
            "block": b,
            "read": b > 1,
            "along": 0.1 * b,
            "across": 0.05 * b,
            "cosine": 1 - 0.01 * b,
            "accuracy_before": 0.6,
            "accuracy_after": 0.6 + 0.02 * b,
        }
        for b in range(layers)
    ]
    (folder / "inspect.json").write_text(json.dumps({"dataset": str(source), "blocks": blocks}))
    return folder


def _numbered(pairs):
    """(number within its prompt, pair)."""
    seen = {}
    for pair in pairs:
        seen[pair.cluster] = seen.get(pair.cluster, -1) + 1
        yield seen[pair.cluster], pair


def _responses(name, dataset, pairs, method, rise, strengths, number, random):
    keys = sorted({(p[2], r) for p in pairs for r in (p[3], p[4])})
    prompts, index = zip(*keys, strict=True)
    tokens = 5 + np.arange(len(keys)) % 7
    fixed = np.random.default_rng(number)  # the base is the same in every run
    mean = fixed.normal(-2, 0.5, len(keys)) + np.where(np.array(index) == 0, 0.1, 0.0)
    noise = random.normal(0, 0.3, len(keys)) + np.where(np.array(index) == 0, rise, 0.0)
    frames = []
    for model, strength in [("base", 0.0), *((method, s) for s in strengths)]:
        logp = (mean + strength * noise) * tokens
        frames.append(
            pl.DataFrame(
                {
                    "model": model, "strength": strength, "reference": "f00d", "set": name, "dataset": dataset,
                    "split": "test", "prompt": prompts, "response": index, "logp": logp, "tokens": tokens,
                    "characters": tokens * 4, "inner": np.full(len(keys), np.nan),
                    "abs_log_ratio": np.abs(strength * noise) * tokens,
                }
            ).cast(RESPONSES).select(list(RESPONSES))
        )  # fmt: skip
    return frames


def study_folders(
    out, methods=("dpo", "innerpo"), seeds=(1,), shifts=3, prompts=30, strengths=(1.0,), hostile=True, layers=4
):
    """Write data sets and runs; return the runs' folders."""
    out.mkdir(parents=True, exist_ok=True)
    test = write_data(out, "source", prompts, hostile=hostile)
    kinds = ("difficulty", "encoding", "skill")
    targets = [write_data(out, f"target{i}", prompts, responses=3 if i else 2) for i in range(shifts)]
    control = write_data(out, "control", prompts)
    sets = [
        ("test", test, "test", ""),
        *((p.stem, p, "oos", kinds[i % 3]) for i, p in enumerate(targets)),
        ("rnd", control, "rnd", ""),
    ]
    return [
        write_run(out / "runs", method, seed, sets, better=0.5 - 0.1 * i, strengths=strengths, layers=layers)
        for i, method in enumerate(methods)
        for seed in seeds
    ]
