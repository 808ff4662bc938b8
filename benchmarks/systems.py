"""The training systems, each set up, warmed up and timed: this project by its own functions, TRL by its trainer."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import logsigmoid
from transformers import TrainerCallback

from benchmarks.flops import RANK, shape_of, synchronise, training_flops
from benchmarks.memory import peak_bytes, reset_peak
from benchmarks.models import load_model, model_config
from benchmarks.options import AdapterOptions, ParityOptions, TrainOptions, TrunkOptions
from benchmarks.pairs import load_workload, useful_tokens
from innerpo.config.run import RunConfig, default_run
from innerpo.data.pairs import PreferencePair
from innerpo.data.tokens import PromptItem
from innerpo.errors import UserError
from innerpo.evaluation.score import score_items
from innerpo.model.adapters import add_adapter
from innerpo.model.base import Base, reference_mode
from innerpo.training.prepare import prepare_items
from innerpo.training.train import train_policy

METHODS = {"innerpo-dpo": "dpo", "innerpo-default": "innerpo"}
BETA, SEED = 0.1, 1


class Clock(TrainerCallback):
    """Times a training from its first fetch of data to the end of its last step; keeps its peak memory and losses.

    Both this project's trainer and TRL's call it, since both are transformers' Trainer.
    """

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.started = self.seconds = 0.0
        self.peak_bytes = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock, once all that set-up had begun on the accelerator is done."""
        synchronise()
        reset_peak()
        self.started = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Read the clock after the last step. The steps before it are not waited for, as in any training."""
        if state.global_step >= state.max_steps:
            synchronise()
            self.seconds = time.perf_counter() - self.started
            self.peak_bytes = peak_bytes()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Keep a logged loss."""
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))


def measure(system: str, options: TrainOptions, scratch: Path) -> dict[str, Any]:
    """Train with one system; return its time, what its time was spent on, and the losses that should agree.

    ``scratch`` is a folder that the measured processes share: this project keeps its reference pass there.
    """
    before = time.perf_counter()
    base = load_model(options)
    pairs, items = load_workload(options, base.tokenizer, options.n_pairs)
    shape = shape_of(base.model)
    if system in METHODS:
        policy, warm, clock = _train_innerpo(METHODS[system], base, items, options, scratch)
    else:
        policy, warm, clock = _train_trl(system, base, pairs, items, options, scratch)
    return {
        "seconds": clock.seconds,
        "seconds_per_step": clock.seconds / options.steps,
        "setup_seconds": clock.started - before,
        "peak_bytes": clock.peak_bytes,
        "tokens": useful_tokens(items) * options.passes,
        "flops": training_flops(shape, items) * options.passes,
        "warmup_losses": warm.losses,
        "dpo_loss_after": dpo_loss(policy, items[: options.batch_size], base),
    }


def _train_innerpo(
    name: str,
    base: Base,
    items: Sequence[PromptItem],
    options: TrainOptions,
    scratch: Path,
) -> tuple[nn.Module, Clock, Clock]:
    """Do what ``innerpo.run.train`` does with pairs that are already tokens, twice with one adapter."""
    config = run_config(name, options, scratch)
    prepared = prepare_items(config, base, items, cache_dir=scratch)
    policy = add_adapter(base, config.model, SEED)
    config.run_dir.mkdir(parents=True, exist_ok=True)
    warm, clock = Clock(), Clock()
    for epochs, log_steps, some, callback in (
        (options.warmup, 1, items[: options.batch_size], warm),
        (options.passes, config.training.log_steps, items, clock),
    ):
        training = replace(config.training, epochs=float(epochs), log_steps=log_steps)
        run, pairs = replace(config, training=training), replace(prepared.pairs, items=some)
        train_policy(policy, prepared.method, pairs, run, callbacks=[callback])
    return policy, warm, clock


def run_config(
    method: str, options: TrainOptions | ParityOptions | AdapterOptions | TrunkOptions, scratch: Path
) -> RunConfig:
    """A method's defaults, with what the systems share, and nothing but log lines written.

    The share of each term in the gradient, which a run measures every 25 steps by a backward pass more, is left out:
    TRL has no such log, and so few steps would show it out of proportion.
    """
    config = default_run(method)
    return replace(
        config,
        model=model_config(options),
        data=replace(config.data, batch_size=options.batch_size),
        training=replace(
            config.training,
            lr=options.lr,
            scheduler="constant",
            warmup=0.0,
            seed=SEED,
            save_steps=0,
            grad_share_steps=0,
            overwrite=True,
        ),
        output_dir=scratch / "runs",
    )


def _train_trl(
    system: str,
    base: Base,
    pairs: Sequence[PreferencePair],
    items: Sequence[PromptItem],
    options: TrainOptions,
    scratch: Path,
) -> tuple[nn.Module, Clock, Clock]:
    """Train with DPOTrainer: its defaults but for what the systems share (and what the system's name says)."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import DPOConfig, DPOTrainer

    shared = default_run("dpo").training
    args = DPOConfig(
        output_dir=str(scratch / "trl"),
        beta=BETA,
        precompute_ref_log_probs=system != "trl",
        **({"gradient_checkpointing": False} if system == "trl-no-checkpointing" else {}),
        max_length=options.max_prompt_tokens + options.max_response_tokens,
        bf16=options.dtype == "bfloat16",
        fp16=options.dtype == "float16",
        use_cpu=options.dtype == "bfloat16" and not torch.cuda.is_available(),  # else refused without a GPU
        per_device_train_batch_size=options.batch_size,
        num_train_epochs=options.warmup,
        learning_rate=options.lr,
        lr_scheduler_type="constant",
        optim=shared.optim,
        weight_decay=shared.weight_decay,
        max_grad_norm=shared.max_grad_norm,
        seed=SEED,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    adapter = model_config(options)
    lora = LoraConfig(
        r=RANK, lora_alpha=adapter.lora_alpha, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    data = Dataset.from_list([{"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected} for p in pairs])
    torch.manual_seed(SEED)  # as add_adapter does, so that the systems start from the same adapter
    trainer = DPOTrainer(base.model, args=args, train_dataset=data, processing_class=base.tokenizer, peft_config=lora)
    whole = trainer.train_dataset
    _check_tokens(whole, items)
    warm, clock = Clock(), Clock()
    trainer.add_callback(warm)
    trainer.train_dataset = whole.select(range(options.batch_size))
    trainer.train()
    trainer.remove_callback(warm)
    trainer.add_callback(clock)
    trainer.train_dataset = whole
    trainer.optimizer = trainer.lr_scheduler = None  # made anew, as this project's second trainer makes its own
    trainer.args.num_train_epochs, trainer.args.logging_steps = options.passes, shared.log_steps
    trainer.train()
    return trainer.model, warm, clock


def _check_tokens(data: Any, items: Sequence[PromptItem]) -> None:
    """Refuse to compare where TRL made other tokens of the same pairs."""
    for row, item in zip(data, items, strict=True):
        ids = (tuple(row["prompt_ids"]), (tuple(row["chosen_ids"]), tuple(row["rejected_ids"])))
        if ids != (item.prompt, item.responses):
            raise UserError(f"TRL has other tokens than this project for pair {item.pairs[0][2]}; no comparison")


def dpo_loss(policy: Any, items: Sequence[PromptItem], base: Base) -> float:
    """Mean DPO loss on some pairs, found in the same way for every system: by scoring with the adapter on and off."""

    def margins() -> torch.Tensor:
        out = score_items(policy, items, "concatenated", base.pad_id, batch_size=8, request=None, what="fixed batch")
        return out.logps[0::2] - out.logps[1::2]

    now = margins()
    with reference_mode(policy):
        return float(-logsigmoid(BETA * (now - margins())).mean())
