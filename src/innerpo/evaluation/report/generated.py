"""Generations side by side: what base and policies answered to the same prompts (``generations.jsonl``)."""

from pathlib import Path
from typing import Any

from innerpo.config.labels import scaled_label
from innerpo.evaluation.report.folders import read_lines, run_folder, runs_of
from innerpo.evaluation.report.records import Generated
from innerpo.evaluation.report.texts import cut, plain
from innerpo.evaluation.study import Study

FILE = "generations.jsonl"
PROMPTS = 20
"""Prompts of a set that are shown."""
CHARACTERS = 3000
"""A prompt or an answer is cut after so many characters."""


def generations(study: Study) -> tuple[tuple[Generated, ...], tuple[str, ...]]:
    """Return the answers by prompt, those of the base once where they agree, and notes on what was left out."""
    by_prompt: dict[tuple[str, str], dict[str, tuple[str, str]]] = {}
    for run in runs_of(study):
        folders = {Path(run["folder"]), run_folder(run["folder"])}
        for row in (row for folder in sorted(folders) for row in read_lines(folder / FILE)):
            answers = by_prompt.setdefault((_text(row, "set"), _text(row, "prompt")), {})
            label = _label(row, run)
            answer = (cut(_text(row, "text"), CHARACTERS), _about(row))
            if answers.get(label, answer) != answer:  # another sampling, or the base in another run
                label = f"{label} ({run['run']}, {_sampling(row)})"
            answers[label] = answer
    shown: list[Generated] = []
    left: dict[str, int] = {}
    for (set_name, prompt), answers in by_prompt.items():
        if sum(g.set == set_name for g in shown) >= PROMPTS:
            left[set_name] = left.get(set_name, 0) + 1
            continue
        found = tuple((label, text, about) for label, (text, about) in answers.items())
        shown.append(Generated(set_name, cut(prompt, CHARACTERS), found))
    notes = tuple(f"{n} more prompts of {name} are in {FILE}." for name, n in left.items())
    return tuple(shown), notes


def _label(row: dict[str, Any], run: dict[str, Any]) -> str:
    model, strength = _text(row, "model"), row.get("strength")
    if model == "base":
        return "base"
    seed = "" if run["seed"] is None else f", seed {run['seed']}"
    if model.startswith("steered "):
        return f"{run['method']} {model}{seed}"
    return f"{scaled_label(run['method'], strength if isinstance(strength, int | float) else 1.0)}{seed}"


def _about(row: dict[str, Any]) -> str:
    parts = []
    tokens, logp = row.get("tokens"), row.get("logp")
    if isinstance(tokens, int):
        parts.append(f"{tokens} tokens" + (", not ended by the model" if row.get("stopped") is False else ""))
    if isinstance(logp, int | float) and tokens:
        parts.append(f"log-probability {logp / tokens:.2f} nats per token")
    parts.append(_sampling(row))
    return "; ".join(part for part in parts if part)


def _sampling(row: dict[str, Any]) -> str:
    drawn = row.get("sampling")
    if not isinstance(drawn, dict) or "sample" not in drawn:
        return _text(row, "sampling")
    how = "sampled at temperature {temperature:g}, top-p {top_p:g}, seed {seed}" if drawn["sample"] else "greedy"
    try:
        return how.format(**drawn)
    except (KeyError, ValueError):
        return _text(row, "sampling")


def _text(row: dict[str, Any], name: str) -> str:
    """A field as text: chat messages with their roles, a record as its fields."""
    value = row.get(name, "")
    if isinstance(value, list) and all(isinstance(m, dict) and {"role", "content"} <= set(m) for m in value):
        return plain(tuple(value))
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return str(value)
