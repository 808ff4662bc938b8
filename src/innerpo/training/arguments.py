"""A run's config as transformers' TrainingArguments, and what of it the processes at hand cannot do."""

import logging
import os
from contextlib import suppress

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType, parse_flag_from_env
from transformers import Trainer, TrainingArguments

from innerpo.config.run import RunConfig
from innerpo.errors import UserError, one_line
from innerpo.training.paths import CHECKPOINTS
from innerpo.training.trackers import check_trackers, left_to_transformers

log = logging.getLogger(__name__)


def training_arguments(config: RunConfig) -> TrainingArguments:
    """Translate the run's config into transformers' TrainingArguments. Raises UserError for what it refuses."""
    t = config.training
    check_trackers(config)
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
            lr_scheduler_type="constant_with_warmup" if t.scheduler == "constant" else t.scheduler,
            optim=t.optim,
            weight_decay=t.weight_decay,
            max_grad_norm=t.max_grad_norm,
            seed=t.seed,
            save_strategy="steps" if t.save_steps else "no",
            save_steps=t.save_steps or 500,
            save_total_limit=1,
            logging_steps=t.log_steps,
            logging_first_step=True,
            logging_nan_inf_filter=False,
            report_to=left_to_transformers(config) or "none",
            run_name=config.run_name,
            fsdp=t.fsdp or None,
            deepspeed=t.deepspeed,
            remove_unused_columns=False,
            dataloader_pin_memory=torch.cuda.is_available(),
            ddp_find_unused_parameters=False,
            disable_tqdm=True,
            **{checkpointing: t.gradient_checkpointing, f"{checkpointing}_kwargs": {"use_reentrant": False}},
        )
        _check_optimiser(args)
    except (ValueError, ImportError) as error:
        raise UserError(f"transformers refuses the training options: {one_line(error, 300)}") from error
    use_one_gpu(args)
    return args


def _check_optimiser(args: TrainingArguments) -> None:
    """Raise ImportError where the optimiser's package is not installed: now, and not behind the reference passes."""
    with suppress(ValueError):  # some optimisers need the model, and say so after they have found their package
        Trainer.get_optimizer_cls_and_kwargs(args)


def use_one_gpu(args: TrainingArguments) -> None:
    """Let a process use one GPU: the Trainer would split a batch's tensors by rows, which completions do not follow."""
    if args.n_gpu > 1:
        log.info(f"using one of {args.n_gpu} GPUs; `accelerate launch` uses them all")
        args._n_gpu = 1


def is_sharded(config: RunConfig) -> bool:
    """Whether the policy's weights are to lie in pieces on several devices: asked for here, or of the launcher."""
    return _fsdp(config) or bool(config.training.deepspeed) or parse_flag_from_env("ACCELERATE_USE_DEEPSPEED")


def _fsdp(config: RunConfig) -> bool:
    return bool(config.training.fsdp) or parse_flag_from_env("ACCELERATE_USE_FSDP")


def check_processes(config: RunConfig, mixed: bool = False) -> None:
    """Raise UserError where accelerate does not do what was asked of it, and would not say so.

    ``mixed``: the caller computes the reference in the precision that accelerate was started with.

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
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision != "no" and not mixed:
        raise UserError(
            f"accelerate was started with mixed precision {precision}, in which the policy would be rounded otherwise "
            "than its reference; start it without, and choose the type of the weights by model.dtype"
        )
    if config.method.gradient != "none" and is_sharded(config):
        raise UserError(f"{config.method.gradient} needs whole gradients; FSDP and DeepSpeed keep them in pieces")
    if _fsdp(config) and PartialState().distributed_type in (DistributedType.NO, DistributedType.MULTI_CPU):
        raise UserError(
            "FSDP needs processes with a GPU each; accelerate started this one without (accelerate launch --use_fsdp "
            "--num_processes 2 ...)"
        )
