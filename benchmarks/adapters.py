"""``python -m benchmarks.adapters``: what is left of an adapter in half precision, by how it is added to its base."""

import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.table import Table
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from benchmarks.models import load_model
from benchmarks.options import AdapterOptions
from benchmarks.pairs import load_workload
from benchmarks.summary import save
from benchmarks.systems import BETA, run_config
from innerpo.cli.console import error_line, say, stdout
from innerpo.data.batching.batch import make_batch
from innerpo.data.tokens import PromptItem
from innerpo.errors import UserError
from innerpo.model.adapters import add_adapter
from innerpo.model.base import Base, reference_mode
from innerpo.model.forward.outputs import sequence_outputs
from innerpo.model.numerics.fused_lora import unfuse_lora
from innerpo.model.numerics.half_matmul import float32_matmul
from innerpo.training.prepare import prepare_items
from innerpo.training.train import train_policy

Seen = Mapping[str, Tensor]


def _by_peft(policy: Any) -> Any:
    unfuse_lora(policy)
    return policy


WAYS: dict[str, Callable[[Any], Any]] = {
    "one sum": lambda policy: policy,
    "peft": _by_peft,
    "merged": lambda policy: policy.merge_and_unload(),
}
"""What is done to one policy, in this order: nothing, peft's own layers (rounded before the sum), weights added."""


def main(argv: Sequence[str] | None = None) -> int:
    """Train in float32, look at the adapter in half precision, print and save."""
    try:
        options = parse(argv)
        with tempfile.TemporaryDirectory(prefix="innerpo-adapters-") as scratch:
            rows = measured(options, Path(scratch))
    except UserError as error:
        error_line(str(error))
        return error.exit_code
    _show(options, rows)
    save(options.save, "adapters", options, [{"name": f"dpo, {options.dataset}", "rows": rows}])
    return 0


def parse(argv: Sequence[str] | None = None) -> AdapterOptions:
    """Read the command line."""
    return tyro.cli(AdapterOptions, args=argv, prog="python -m benchmarks.adapters")


def measured(options: AdapterOptions, scratch: Path) -> list[dict[str, Any]]:
    """Return a row of figures for every way, beside the same adapter in float32."""
    config = run_config("dpo", options, scratch)
    training = replace(config.training, max_steps=options.steps)
    config = replace(config, model=replace(config.model, dtype="float32"), training=training)
    base = load_model(options, config.model)
    _, items = load_workload(options, base.tokenizer, options.pairs)
    prepared = prepare_items(config, base, items, cache_dir=scratch)
    policy: Any = add_adapter(base, config.model, config.training.seed)
    config.run_dir.mkdir(parents=True, exist_ok=True)
    train_policy(policy, prepared.method, prepared.pairs, config)
    weights = {name: p.detach().clone() for name, p in policy.named_parameters() if p.requires_grad}
    margins = prepared.reference.logps[0::2] - prepared.reference.logps[1::2]
    exact = seen(policy, items, margins, base, options)
    half = load_model(options)
    policy = add_adapter(half, config.model, config.training.seed)
    policy.load_state_dict(weights, strict=False)
    with reference_mode(policy):
        alone = seen(policy, items, margins, half, options)["margins"]
    rows = []
    for name, change in WAYS.items():
        say(f"{options.dtype}: {name}")
        policy = change(policy)
        figures = compared(seen(policy, items, margins, half, options), exact)
        rows.append({"system": name, **figures, "base_margin_spread": (alone - margins).std().item()})
    return rows


def seen(
    policy: nn.Module, items: Sequence[PromptItem], reference: Tensor, base: Base, options: AdapterOptions
) -> Seen:
    """Return each pair's margin of log-probabilities, in nats, and the gradient of the summed DPO loss, all in one.

    ``reference``: the float32 reference's margins, the same for all. Without gradient (the reference, merged weights)
    there is no gradient in what is returned.
    """
    policy.zero_grad()
    margins = []
    for start in range(0, len(items), options.batch_size):
        part = slice(start, start + options.batch_size)
        batch = make_batch(items[part], "concatenated", base.pad_id).to(next(policy.parameters()).device)
        with float32_matmul(policy):
            logps = sequence_outputs(policy, batch).logps
            margin = logps[0::2] - logps[1::2]
            if margin.requires_grad:
                wanted = -logsigmoid(BETA * (margin - reference[part].to(margin.device))).sum()
                wanted.backward()  # type: ignore[no-untyped-call]
        margins.append(margin.detach().cpu())
    gradients = [p.grad.flatten().cpu() for p in policy.parameters() if p.grad is not None]
    return {"margins": torch.cat(margins)} | ({"gradient": torch.cat(gradients)} if gradients else {})


def compared(found: Seen, exact: Seen) -> dict[str, float]:
    """Return how margins differ from float32's (mean and standard deviation), and gradients in direction and length."""
    off = found["margins"] - exact["margins"]
    row = {"margin_mean": off.mean().item(), "margin_spread": off.std().item()}
    if "gradient" in found:
        a, b = found["gradient"].double(), exact["gradient"].double()
        row["gradient_cosine"] = torch.cosine_similarity(a, b, 0).item()
        row["gradient_length"] = (a.norm() / b.norm()).item()
    return row


def _show(options: AdapterOptions, rows: Sequence[Mapping[str, Any]]) -> None:
    table = Table()
    heads = ("added by", "margin off by, mean", "sd", "of the base alone, sd", "gradient's cosine", "length")
    for head in heads:
        table.add_column(head)
    for row in rows:
        names = ("margin_mean", "margin_spread", "base_margin_spread", "gradient_cosine", "gradient_length")
        table.add_row(row["system"], *(f"{row[n]:.3f}" if n in row else "" for n in names))
    head = f"dpo, {options.steps} steps in float32 on {options.pairs} pairs of {options.dataset}"
    stdout.print(f"{head}; in {options.dtype}, beside float32 (margins in nats):", soft_wrap=True)
    stdout.print(table)


if __name__ == "__main__":
    sys.exit(main())
