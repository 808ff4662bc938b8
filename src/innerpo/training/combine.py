"""Arithmetic on the adapters of runs: weighted sums, means over seeds, LiNeS, truncation. Nothing is trained."""

import json
import math
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from innerpo.config.combined import FILE as RECORD_OF_SUM
from innerpo.config.combined import Combined, Source, read_combined
from innerpo.config.labels import group_label
from innerpo.config.run import to_dict
from innerpo.config.yaml import read_run_config
from innerpo.errors import UserError
from innerpo.files import FILE_MODE, cache_root, existing_folder, machine_errors, new_folder, staged_directory
from innerpo.model.identity import hash_of_adapter
from innerpo.model.lora_sum import Update, by_depth, truncated, weighted_sum
from innerpo.training.lora_files import CONFIG, WEIGHTS, read_config, read_update, write_update
from innerpo.training.paths import RECORD


@dataclass(frozen=True)
class Arithmetic:
    """What is done to a sum of updates: LiNeS with the factor ``lines`` on the first block (1 = off) of ``blocks``
    (0 = up to the last that has an adapter), then at most ``rank`` directions a module (0 = all), as few as keep the
    share ``energy``.
    """

    lines: float = 1.0
    blocks: int = 0
    rank: int = 0
    energy: float = 1.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.lines):
            raise UserError(f"lines is a factor, a finite number, got {self.lines:g}")
        if self.blocks and self.lines == 1.0:
            raise UserError(
                f"blocks ({self.blocks}) are those that lines rises over; give lines too, or leave them out"
            )
        if self.rank < 0 or self.blocks < 0:
            raise UserError(f"rank and blocks must not be negative, got {self.rank} and {self.blocks}")
        if not 0.0 < self.energy <= 1.0:
            raise UserError(f"energy is a share above 0 and at most 1, got {self.energy:g}")

    @property
    def truncates(self) -> bool:
        """Whether directions are dropped."""
        return self.rank > 0 or self.energy < 1.0


def combine_adapters(
    folders: Sequence[Path], weights: Sequence[float], out: Path, arithmetic: Arithmetic = Arithmetic()
) -> Combined:
    """Write sum_i w_i of the updates of LoRA adapters as one LoRA adapter into a new folder, with its record.

    ``weights`` are one a folder; none means the mean. Adapters of weight 0 drop out; one adapter of weight 1 alone is
    copied as it is. Raises UserError for adapters that are not plain LoRA, for different base models, and where
    ``out`` holds something.
    """
    if not folders:
        raise UserError("there is nothing to combine; give the folders of LoRA adapters")
    weights = list(weights) or [1.0 / len(folders)] * len(folders)
    if len(weights) != len(folders):
        raise UserError(f"{len(folders)} adapters need as many weights, got {len(weights)}")
    if wrong := [w for w in weights if not math.isfinite(w)]:
        raise UserError(f"weights are finite numbers, got {wrong[0]:g}")
    used = [(existing_folder(f), w) for f, w in zip(folders, weights, strict=True) if w != 0.0]
    if not used:
        raise UserError("every weight is 0, so there is no adapter to write")
    target = new_folder(out, "the combined adapter")
    parts = [folder for folder, _ in used]
    configs = [read_config(folder) for folder in parts]
    _check_one_base(parts, configs)
    record = _record(used, configs, arithmetic)
    with staged_directory(target) as staging:
        if len(used) == 1 and used[0][1] == 1.0 and arithmetic.lines == 1.0 and not arithmetic.truncates:
            for name in (CONFIG, WEIGHTS):
                _copy(parts[0] / name, staging / name)
        else:
            update = weighted_sum([read_update(folder) for folder in parts], [w for _, w in used])
            update = by_depth(update, arithmetic.lines, arithmetic.blocks)
            if arithmetic.truncates:
                update, kept = truncated(update, arithmetic.rank, arithmetic.energy)
                record = replace(record, energy_kept=kept)
            _check_finite(update)
            write_update(staging, update, configs[0])
        (staging / RECORD_OF_SUM).write_text(record.as_json())
        for path in staging.iterdir():
            path.chmod(FILE_MODE)  # safetensors writes for its owner alone
    return record


def _check_finite(update: Update) -> None:
    """Refuse a sum with NaN or infinity: a source has them, or a weight is too large for the sum's data type."""
    for name, factors in update.items():
        if not (factors.up.isfinite().all() and factors.down.isfinite().all()):
            raise UserError(f"the sum on {name} is not finite; give smaller weights, or adapters without NaN")


def _copy(source: Path, target: Path) -> None:
    if not source.is_file():
        raise UserError(f"{source.parent} holds no {source.name}; save the adapter as safetensors to combine it")
    with machine_errors(target):
        shutil.copyfile(source, target)


def _check_one_base(folders: Sequence[Path], configs: Sequence[dict[str, Any]]) -> None:
    """Refuse adapters of different base models, by their fingerprints or, where one is not known, by name."""
    first, *others = [(f, *_base_of(f, c)) for f, c in zip(folders, configs, strict=True)]
    for folder, name, print_ in others:
        known = bool(print_ and first[2])
        ours, theirs = (first[2], print_) if known else (first[1], name)
        if ours != theirs:
            raise UserError(
                f"{first[0]} and {folder} are adapters of different base models ({'fingerprints ' * known}{ours} and "
                f"{theirs}); only updates of one model can be added"
            )


def _base_of(folder: Path, config: dict[str, Any]) -> tuple[str, str]:
    """Name and fingerprint of an adapter's base model, "" where they are not known."""
    name = str(config.get("base_model_name_or_path") or "")
    if (combined := read_combined(folder)) is not None:
        return name, combined.base_fingerprint
    path = folder / RECORD
    return name, str(json.loads(path.read_text()).get("base_fingerprint", "")) if path.is_file() else ""


def _record(used: Sequence[tuple[Path, float]], configs: Sequence[dict[str, Any]], a: Arithmetic) -> Combined:
    sources = [_source(folder, weight) for folder, weight in used]
    seeds, known = {s.seed for s in sources}, [_sections_of(folder) for folder, _ in used]
    data, models = [section for section, _ in known], [section for _, section in known if section]
    agree = all(data) and len({section["dataset"] for section in data}) == 1
    # Of several the one in 4 bits: what is summed was trained on those weights, which no other type stands for.
    model = next((m for m in models if m.get("load_in_4bit")), models[0] if models else {})
    name, print_ = _base_of(used[0][0], configs[0])
    return Combined(
        label=_label(sources, a),
        sources=tuple(sources),
        seed=seeds.pop() if len(seeds) == 1 else None,
        lines=a.lines,
        rank=a.rank,
        energy=a.energy,
        base_model=name,
        base_fingerprint=print_,
        data=data[0] if agree else {},
        model=model,
    )


def _source(folder: Path, weight: float) -> Source:
    held, config = hash_of_adapter(folder, cache_root(None)), read_run_config(folder)
    if (combined := read_combined(folder)) is not None:
        return Source(str(folder), held, weight, f"({combined.label})", combined.seed)
    if config is None:
        return Source(str(folder), held, weight, folder.resolve().name)
    return Source(str(folder), held, weight, group_label(config), config.training.seed)


def _label(sources: Sequence[Source], a: Arithmetic) -> str:
    """``dpo - 0.5 shuffled-prompts``; the mean of several of one method is ``soup of 3 dpo``."""
    labels, weights = Counter(s.label for s in sources), {s.weight for s in sources}
    n = len(sources)
    if n > 1 and len(labels) == 1 and len(weights) == 1 and abs(weights.pop() * n - 1.0) < 1e-6:
        text = f"soup of {n} {sources[0].label}"
    else:
        text = " ".join(f"{_factor(s.weight)}{s.label}" for s in sources).removeprefix("+ ")
    more = [f"lines {a.lines:g}"] * (a.lines != 1.0) + [f"rank {a.rank}"] * (a.rank > 0)
    return ", ".join([text, *more, *([f"energy {a.energy:g}"] if a.energy < 1.0 else [])])


def _factor(weight: float) -> str:
    return ("- " if weight < 0 else "+ ") + ("" if abs(weight) == 1.0 else f"{abs(weight):.3g} ")


def _sections_of(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The data and model sections of a source: of its own config, or as its record holds them; empty where unknown."""
    if (combined := read_combined(folder)) is not None:
        return combined.data, combined.model
    config = read_run_config(folder)
    values = {} if config is None else to_dict(config)
    return values.get("data", {}), values.get("model", {})
