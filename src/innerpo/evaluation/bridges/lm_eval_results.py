"""Per-sample results of lm-evaluation-harness on exported tasks, as facts: from its files, or from a live model."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from innerpo.errors import UserError, near_matches
from innerpo.evaluation.bridges.harness_metrics import response_logps
from innerpo.evaluation.facts import PAIRS, RESPONSES, SETS, Scores

INSTALL = "lm-evaluation-harness cannot be imported ({}); pip install 'lm-eval>=0.4.13'"
UNKNOWN = float("nan")

Sample = Mapping[str, Any]
"""What the harness logs of one document: ``doc``, ``resps`` and more."""


def read_results(path: Path, base: str = "") -> Scores:
    """Return the facts in the sample files (``samples_TASK_DATE.jsonl``) beneath a folder.

    The harness keeps each model in a folder of its own, whose name is the model's here; the one named ``base`` becomes
    the base (strength 0). Of a task that a model was run on several times, the newest file counts. Raises UserError
    where there is no such file, or where a sample is not of an exported task.
    """
    files = sample_files(path)
    if not files:
        raise UserError(
            f"{path} holds no samples_*.jsonl; run lm-evaluation-harness with its log of samples and an output path"
        )
    models = {model: [s for file in of for s in _samples(file)] for model, of in files.items()}
    if base and base not in models:
        raise UserError(f"{path} holds no results of a model {base!r}{near_matches(base, models)}")
    return scores_of(models, base)


def sample_files(path: Path) -> dict[str, list[Path]]:
    """Return the newest sample file of each task, by model: its folder's name, with those above where two share it.

    A base and its adapter share a name where the harness names both by the base (its vLLM backend).
    """
    newest: dict[tuple[Path, str], Path] = {}
    for file in sorted(path.rglob("samples_*.jsonl"), key=lambda p: p.name):
        newest[file.parent, re.sub(r"_\d{4}-\d\d-\d\dT[\d.-]+$", "", file.stem)] = file
    folders = {folder for folder, _ in newest}
    names = [folder.resolve().name for folder in folders]
    found: dict[str, list[Path]] = {}
    for (folder, _), file in sorted(newest.items()):
        name = folder.resolve().name
        unique = names.count(name) == 1
        found.setdefault(name if unique else folder.relative_to(path).as_posix(), []).append(file)
    return found


def scores_of(models: Mapping[str, Sequence[Sample]], base: str = "") -> Scores:
    """Return the facts of samples by model. A set is a split of a data set, named as the data set is.

    Inner reward and log-ratio are unknown, and so is the reference. ``tokens`` are those that the harness scored.
    """
    rows, pairs = list[dict[str, Any]](), list[dict[str, Any]]()
    for model, samples in models.items():
        is_base = model == base
        label = {"model": "base" if is_base else model, "strength": 0.0 if is_base else 1.0, "reference": ""}
        for sample in samples:
            doc = sample["doc"]
            place = {
                "set": _set_name(doc),
                "dataset": doc["dataset"],
                "split": doc["split"],
                "prompt": doc["prompt_id"],
            }
            logps = response_logps(doc, [answers[0] for answers in sample["resps"]])
            facts = zip(doc["responses"], logps, doc["tokens"], doc["characters"], strict=True)
            unknown = {"inner": UNKNOWN, "abs_log_ratio": 0.0 if is_base else UNKNOWN}
            rows += [
                label | place | unknown | {"response": i, "logp": logp, "tokens": n, "characters": c}
                for i, logp, n, c in facts
            ]
            named = zip(doc["pair_ids"], doc["pairs"], strict=True)
            pairs += [
                place | {"pair": pair, "chosen": doc["responses"][c], "rejected": doc["responses"][r]}
                for pair, (c, r) in named
            ]
    responses = _frame(rows, RESPONSES).unique(
        ["model", "set", "prompt", "response"], keep="first", maintain_order=True
    )
    every = _frame(pairs, PAIRS).unique(["set", "pair"], keep="first", maintain_order=True)
    return Scores(responses, every, _sets(responses, every))


def harness_model(model: Any, tokenizer: Any, batch_size: int = 8) -> Any:
    """Return a model in memory (a base, or a base with its adapter) as the harness's ``LM``, to evaluate anything with.

    Raises UserError where the harness is not installed.
    """
    try:
        from lm_eval.models.huggingface import HFLM
    except ImportError as error:
        raise UserError(INSTALL.format(error)) from error
    model.eval()
    return HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=batch_size)


def harness_scores(model: Any, tokenizer: Any, folder: Path, label: str, batch_size: int = 8) -> Scores:
    """Run the harness with a model in memory on every task exported to a folder; return its facts under a label.

    A label "base" stands for the base model.
    """
    found = harness_results(model, tokenizer, folder, batch_size)
    return scores_of({label: [s for samples in found["samples"].values() for s in samples]}, "base")


def harness_results(model: Any, tokenizer: Any, folder: Path, batch_size: int = 8) -> dict[str, Any]:
    """Return what the harness's ``evaluate`` returns on all tasks exported to a folder: results and samples by task."""
    tasks = sorted(path.stem for path in folder.glob("innerpo_*.yaml"))
    if not tasks:
        raise UserError(f"{folder} holds no exported task (innerpo_*.yaml)")
    lm = harness_model(model, tokenizer, batch_size)
    from lm_eval import evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(folder), include_defaults=False)
    found: dict[str, Any] = evaluate(lm=lm, task_dict=manager.load(tasks), bootstrap_iters=0)
    return found


def _samples(file: Path) -> list[Sample]:
    found = list[Sample]()
    for number, line in enumerate(file.read_text(encoding="utf-8").split("\n"), 1):
        if not line:
            continue
        try:
            sample = json.loads(line)
        except ValueError as error:
            raise UserError(f"{file} line {number} is not JSON ({error}); the file may be cut short") from error
        if not isinstance(sample, dict) or not {"prompt_id", "pair_ids", "head"} <= set(sample.get("doc", ())):
            raise UserError(f"{file} line {number} is no sample of a task that was exported by this program")
        found.append(sample)
    return found


def _set_name(doc: Mapping[str, Any]) -> str:
    return str(doc["dataset"]) if doc["split"] == "test" else f"{doc['dataset']} ({doc['split']})"


def _frame(rows: Sequence[Mapping[str, Any]], schema: Mapping[str, Any]) -> pl.DataFrame:
    return pl.DataFrame([{name: row[name] for name in schema} for row in rows], dict(schema), orient="row")


def _sets(responses: pl.DataFrame, pairs: pl.DataFrame) -> pl.DataFrame:
    """One row per set: what it is made of; its role towards a training set is not known (extra)."""
    rows = []
    for name, dataset, split in responses.select("set", "dataset", "split").unique(maintain_order=True).iter_rows():
        own = pairs.filter(pl.col("set") == name)
        row = {"set": name, "dataset": dataset, "split": split, "role": "train" if split == "train" else "extra"}
        counts = {"pairs": len(own), "prompts": own["prompt"].n_unique(), "seen": 0, "near": -1}
        rows.append(row | {"kind": "", "target_reference": "", "note": ""} | counts)
    return _frame(rows, SETS)
