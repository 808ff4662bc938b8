"""The paths of training that are compared: what each sets, and the losses that it gives."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.models import load_model
from benchmarks.options import ParityOptions
from benchmarks.pairs import load_workload
from benchmarks.plain import plain_losses
from benchmarks.systems import Clock, run_config
from innerpo.config.run import RunConfig
from innerpo.model.adapters import add_adapter
from innerpo.model.numerics.fused_lora import unfuse_lora
from innerpo.model.numerics.half_matmul import float32_matmul
from innerpo.training.prepare import prepare_items
from innerpo.training.train import train_policy

PLAIN = "plain"
PATHS: dict[str, dict[str, dict[str, Any]]] = {
    "default": {},
    "one pass a step": {"data": {"micro_batch_tokens": 1 << 30}},
    "a pass a pair": {"data": {"micro_batch_tokens": 1}},
    "concatenated": {"data": {"layout": "concatenated"}},
    "packed": {"data": {"layout": "packed"}},
    "eager": {"model": {"attention": "eager"}},
    "compiled": {"model": {"compile": "on"}},
    "bfloat16": {"model": {"dtype": "bfloat16"}},
    "bfloat16, sdpa": {"model": {"dtype": "bfloat16", "attention": "sdpa"}},
    "bfloat16, plain": {"model": {"dtype": "bfloat16"}},
}
"""What is set otherwise than by default, by section of a run's config. The last is plain: what bfloat16 changes."""


def losses(path: str, options: ParityOptions, scratch: Path) -> dict[str, Any]:
    """Train on one path; return the loss of every step."""
    config = path_config(path, options, scratch)
    base = load_model(options, config.model)
    _, items = load_workload(options, base.tokenizer, options.n_pairs)
    prepared = prepare_items(config, base, items, cache_dir=scratch)
    policy = add_adapter(base, config.model, config.training.seed)
    if PLAIN in path:
        unfuse_lora(policy)
        with float32_matmul(policy):
            return {"losses": plain_losses(policy, prepared.method, items, config, options.steps, base.pad_id)}
    config.run_dir.mkdir(parents=True, exist_ok=True)
    clock = Clock()
    train_policy(policy, prepared.method, prepared.pairs, config, callbacks=[clock])
    return {"losses": clock.losses, "seconds": clock.seconds}


def path_config(path: str, options: ParityOptions, scratch: Path) -> RunConfig:
    """Return the run of one path: the method's defaults, a log line a step, and what the path sets."""
    config = run_config(options.method, options, scratch)
    training = replace(config.training, log_steps=1, max_steps=options.steps)
    changed = {name: replace(getattr(config, name), **fields) for name, fields in PATHS.get(path, {}).items()}
    return replace(config, training=training, **changed)
