"""Train a policy: a run's config to the Trainer's arguments, with progress on the terminal."""

import logging
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType, parse_flag_from_env
from torch import nn
from transformers import TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from innerpo.config.run import RunConfig
from innerpo.data.batching.row_plan import Layout
from innerpo.data.tokens import PromptItem
from innerpo.errors import MachineError, UserError
from innerpo.methods.method import Method
from innerpo.model.forward.sites import RESIDUAL
from innerpo.model.numerics.half_matmul import float32_matmul
from innerpo.model.numerics.hardware import Choice, choose_compile, choose_micro_batch_tokens, compiled_blocks
from innerpo.model.reference import Reference
from innerpo.progress import Update, task
from innerpo.training.run_folder import CHECKPOINTS, METRICS, cut_metrics
from innerpo.training.trainer import PairCollator, PairTrainer

log = logging.getLogger(__name__)


class _Progress(TrainerCallback):
    """Reports optimiser steps and the running loss."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._update: Update | None = None
        self._note = ""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._update = self._stack.enter_context(task("training", state.max_steps))
        self._update(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        assert self._update is not None
        self._update(state.global_step, self._note)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self._note = f"loss {logs['loss']:.3f}"

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.close()

    def close(self) -> None:
        """End the task, also where training failed."""
        self._stack.close()


def training_arguments(config: RunConfig) -> TrainingArguments:
    """Translate the run's config into transformers' TrainingArguments. Raises UserError for what it refuses."""
    t = config.training
    known = TrainingArguments.__dataclass_fields__  # transformers renames the option in 5.23
    checkpointing = "activation_checkpointing" if "activation_checkpointing" in known else "gradient_checkpointing"
    try:
        args = TrainingArguments(
            output_dir=str(config.run_dir / CHECKPOINTS),
            per_device_train_batch_size=config.data.batch_size,
            gradient_accumulation_steps=t.gradient_accumulation,
            learning_rate=t.lr,
            num_train_epochs=t.epochs,
            max_steps=t.max_steps or -1,
            warmup_steps=t.warmup,
            lr_scheduler_type=t.scheduler,
            optim=t.optim,
            weight_decay=t.weight_decay,
            max_grad_norm=t.max_grad_norm,
            seed=t.seed,
            save_strategy="steps" if t.save_steps else "no",
            save_steps=t.save_steps or 500,
            logging_steps=t.log_steps,
            logging_first_step=True,
            logging_nan_inf_filter=False,
            report_to=list(t.report_to) or "none",
            fsdp=t.fsdp or None,
            deepspeed=t.deepspeed,
            remove_unused_columns=False,
            dataloader_pin_memory=torch.cuda.is_available(),
            ddp_find_unused_parameters=False,
            disable_tqdm=True,
            **{checkpointing: t.gradient_checkpointing, f"{checkpointing}_kwargs": {"use_reentrant": False}},
        )
    except (ValueError, ImportError) as error:
        raise UserError(f"transformers refuses the training options: {' '.join(str(error).split())[:300]}") from error
    if args.n_gpu > 1:  # the Trainer would split each batch's tensors by rows, which packed completions do not follow
        log.info(f"using one of {args.n_gpu} GPUs; `accelerate launch` uses them all")
        args._n_gpu = 1
    return args


def is_sharded(config: RunConfig) -> bool:
    """Whether the policy's weights are to lie in pieces on several devices: asked for here, or of the launcher."""
    return _fsdp(config) or bool(config.training.deepspeed) or parse_flag_from_env("ACCELERATE_USE_DEEPSPEED")


def _fsdp(config: RunConfig) -> bool:
    return bool(config.training.fsdp) or parse_flag_from_env("ACCELERATE_USE_FSDP")


def check_processes(config: RunConfig) -> None:
    """Raise UserError where accelerate does not do what was asked of it, and would not say so.

    It leaves FSDP out where there are no GPUs; and processes that were started without them, but not for the CPU, it
    takes for one each, so that all of them would write the same folder.
    """
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started > 1 and PartialState().num_processes == 1:
        raise UserError(
            f"{started} processes were started (WORLD_SIZE) and this one does not know of the others: start them by "
            "torchrun or accelerate launch, which say which is which (LOCAL_RANK), and without GPUs with "
            "ACCELERATE_USE_CPU=true"
        )
    if config.method.gradient != "none" and is_sharded(config):
        raise UserError(f"{config.method.gradient} needs whole gradients; FSDP and DeepSpeed keep them in pieces")
    if _fsdp(config) and PartialState().distributed_type in (DistributedType.NO, DistributedType.MULTI_CPU):
        raise UserError(
            "FSDP needs processes with a GPU each; accelerate started this one without (accelerate launch --use_fsdp "
            f"--num_processes 2 cli.py train {config.method.name} ...)"
        )


def train_policy(
    policy: nn.Module,
    method: Method,
    items: Sequence[PromptItem],
    reference: Reference,
    layout: Layout,
    pad_id: int,
    config: RunConfig,
    checkpoint: Path | None,
    callbacks: Sequence[TrainerCallback] = (),
) -> dict[str, Any]:
    """Train the policy in place; return what the run's record should say of it."""
    check_processes(config)
    if checkpoint is not None:
        step = int(checkpoint.name.split("-")[1])
        log.info(f"resuming from step {step}")
        cut_metrics(config.run_dir, step)
    elif config.training.resume:
        log.info("nothing to resume from; starting at step 0")
        cut_metrics(config.run_dir, 0)
    if "tensorboard" in config.training.report_to:  # its default lies among the checkpoints, which go when all is done
        os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(config.run_dir / "tensorboard"))
    bar, args = _Progress(), training_arguments(config)
    hooked = config.method.gradient == "projbp" or (method.request is not None and method.request.site != RESIDUAL)
    micro_batch_tokens, compiled = _passes(policy, items, args, config, hooked)
    trainer = PairTrainer(
        policy,
        args,
        method,
        PairCollator(items, reference, layout, pad_id, micro_batch_tokens),
        grad_share_steps=config.training.grad_share_steps,
        metrics_path=config.run_dir / METRICS,
        callbacks=[bar, *callbacks],
    )
    for noisy in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(noisy)
    started = time.time()
    try:
        with (
            float32_matmul(policy),
            compiled_blocks(policy) if compiled else nullcontext(),
            nullcontext() if method.gradient_edit is None else method.gradient_edit.installed(policy),
        ):
            _train_or_load(trainer, checkpoint)
    except torch.OutOfMemoryError as error:
        raise MachineError(
            f"out of memory with {trainer.data_collator.micro_batch_tokens or 'all'} tokens in a micro-batch; a "
            "smaller data.micro_batch_tokens, a smaller data.batch_size or training.gradient_checkpointing needs less"
        ) from error
    finally:
        bar.close()
    seconds = time.time() - started
    steps = trainer.state.global_step
    log.info(f"trained {steps} steps on {len(items)} pairs in {seconds:.0f} s ({seconds / max(steps, 1):.2f} s a step)")
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    summary = {"steps": steps, "train_seconds": seconds, "first_loss": losses[0], "last_loss": losses[-1]}
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:  # all processes take part in the gathering
        summary["gathered"] = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    return summary


def _passes(
    policy: nn.Module, items: Sequence[PromptItem], args: TrainingArguments, config: RunConfig, hooked: bool
) -> tuple[int, bool]:
    """Choose how many tokens a pass may have (0 = all of a batch) and whether blocks are compiled, and say so."""
    if is_sharded(config):
        tokens = Choice(0, "all processes must make the same number of passes")
    else:
        tokens = choose_micro_batch_tokens(config.data.micro_batch_tokens, policy)
    weights = next(p for p in policy.parameters() if p.is_floating_point())
    per_step = args.per_device_train_batch_size * args.gradient_accumulation_steps * max(1, args.world_size)
    steps = args.max_steps if args.max_steps > 0 else int(args.num_train_epochs * -(-len(items) // per_step))
    compiled = choose_compile(config.model, weights.dtype, weights.device, steps, hooked)
    log.info(f"passes: {f'at most {tokens.value} tokens' if tokens.value else 'one a batch'} ({tokens.reason})")
    log.info(f"blocks: {'compiled' if compiled.value else 'not compiled'} ({compiled.reason})")
    return int(tokens.value), bool(compiled.value)


def _train_or_load(trainer: PairTrainer, checkpoint: Path | None) -> None:
    """Train to the end. A checkpoint of the last step is only loaded: the Trainer would take one step more."""
    if checkpoint is not None:
        state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        if state.global_step >= state.max_steps:
            trainer._load_from_checkpoint(str(checkpoint), trainer.model)
            trainer.state = state
            return
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
