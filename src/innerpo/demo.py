"""The demo: base, DPO, residual and its control on an embedded shift, side by side, in minutes on two CPU cores."""

import logging
from dataclasses import replace
from pathlib import Path

from innerpo.config.run import RunConfig, default_run
from innerpo.config.yaml import overlay, preset_path, read_yaml
from innerpo.evaluation.facts import combine
from innerpo.evaluation.headline_files import headlines
from innerpo.files import cache_root
from innerpo.model.loading import load_base
from innerpo.run import Run, train

log = logging.getLogger(__name__)

METHODS_SHOWN = ("dpo", "residual", "residual-permuted")
"""What most people would use, a method whose frozen probe names the pairs that teach, and its control: the same offsets
on other pairs."""


def demo_config(method: str, output_dir: Path, seed: int) -> RunConfig:
    """Return the demo's config of a method: the preset `demo`, which anybody can read and change."""
    path = preset_path("demo")
    config = overlay(default_run(method), read_yaml(path), str(path))
    training = replace(config.training, seed=seed, overwrite=True)
    return replace(config, training=training, output_dir=output_dir)


def run_demo(output_dir: Path, seed: int) -> Run:
    """Train and score every method shown; the result's table holds the base once and each method."""
    results, base = list[Run](), None
    for i, method in enumerate(METHODS_SHOWN, 1):
        config = demo_config(method, output_dir, seed)
        log.info(f"[{i}/{len(METHODS_SHOWN)}] {method}: train on {config.data.dataset}, then score")
        base = base or load_base(config.model, cache_root(config.data.cache_dir))
        results.append(train(config, base))
    found = [r.scores for r in results if r.scores is not None]
    if not found:  # another process than the main one
        return Run(output_dir, config)
    sets, scores = results[0].sets, combine(found)
    return Run(output_dir, config, sets, scores, headlines(scores, sets, ("mean_logp", "sum_logp")))
