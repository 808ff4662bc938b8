"""PairTrainer: transformers' Trainer with a loss on pairs, exact accumulation and checkpoints written atomically."""

import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainingArguments
from transformers.trainer_utils import TrainOutput, speed_metrics

from innerpo.config.model import ModelConfig
from innerpo.data.batching.batch import TokenBatch
from innerpo.errors import MachineError, UserError
from innerpo.files import machine_errors
from innerpo.methods.method import LossOutput, Method
from innerpo.methods.records import PairOutputs
from innerpo.model.base import reference_mode
from innerpo.model.forward.outputs import SequenceOutputs, StateRequest, sequence_outputs
from innerpo.model.numerics.half_matmul import float32_matmul
from innerpo.model.numerics.hardware import Choice, choose_compile, choose_micro_batch_tokens, compiled_blocks
from innerpo.model.trunk_check import first_changed_block
from innerpo.training.checkpoints import CheckpointTrainer
from innerpo.training.collate import PairBatch, PairCollator
from innerpo.training.companions import CompanionBatch
from innerpo.training.evaluate import chosen_sets, mean_metrics, sets_by_name
from innerpo.training.sampler import PairIndices, PairSampler, SetEpoch
from innerpo.training.shares import GradientShares, check_trained

log = logging.getLogger(__name__)


class PairTrainer(CheckpointTrainer):
    """Trains a policy with a Method, complete in itself: construct it, call ``train``.

    The optimiser, the schedule, distribution over processes and resuming are the Trainer's. What makes training with a
    Method right is here: the gradient edit and its hooks, exact accumulation over micro-batches, half-precision
    products on CPUs without matrix units, compiled decoder blocks.

    ``pairs`` holds the training pairs with their reference outputs; its ``micro_batch_tokens`` of 0 means: choose by
    the memory at hand. ``eval_pairs`` holds the evaluation pairs, as one set or as several by name. ``compile`` is
    "auto", "on" or "off" (``hardware.choose_compile``).
    """

    control: TrainerControl

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        method: Method,
        pairs: PairCollator,
        *,
        eval_pairs: PairCollator | Mapping[str, PairCollator] | None = None,
        compile: Literal["auto", "on", "off"] = "auto",
        grad_share_steps: int = 0,
        metrics_path: Path | None = None,
        callbacks: Sequence[TrainerCallback] = (),
        processing_class: Any = None,
        optimizers: tuple[Any, Any] = (None, None),
    ) -> None:
        self.pairs_per_step = args.per_device_train_batch_size * args.gradient_accumulation_steps
        self.pairs_per_step *= max(1, args.world_size)
        order_seed = args.seed if args.data_seed is None else args.data_seed
        self.sampler = PairSampler(len(pairs.items), order_seed)
        self.eval_pairs = sets_by_name(eval_pairs)
        super().__init__(
            model=model,
            args=args,
            data_collator=pairs,
            train_dataset=PairIndices(len(pairs.items)),
            eval_dataset={name: PairIndices(len(p.items)) for name, p in self.eval_pairs.items()} or None,
            processing_class=processing_class,
            callbacks=[SetEpoch(self.sampler), *callbacks],
            optimizers=optimizers,
        )
        # The loss is divided by the pairs of the whole step below, not by the number of accumulated batches.
        self.model_accepts_loss_kwargs = True
        self.method = method.to(self.accelerator.device)
        if method.gradient_edit is not None and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            raise UserError(f"{method.config.gradient} needs whole gradients; FSDP and DeepSpeed shard them")
        self.compile = compile
        self.pairs = pairs
        self.shares = GradientShares(grad_share_steps if self.args.world_size == 1 else 0)
        self._shares: dict[str, float] = {}
        self.metrics_path = metrics_path
        # On a GPU, reading a loss would make the host wait for it; there the losses are checked when they are logged.
        self.checks_every_micro_batch = self.args.device.type == "cpu"
        self._unchecked: list[tuple[int, list[str], Tensor]] = []
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    @property
    def n_steps(self) -> int:
        """Optimiser steps of the whole training."""
        steps_per_epoch = -(-len(self.pairs.items) // self.pairs_per_step)
        return int(
            self.args.max_steps if self.args.max_steps > 0 else math.ceil(self.args.num_train_epochs * steps_per_epoch)
        )

    # -- training ----------------------------------------------------------------------------------------------------

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """Train to the end. Raises MachineError where memory runs out, UserError where a loss is not finite.

        A checkpoint of the last step is only loaded: transformers' Trainer would take one step more. ``True`` resumes
        from the newest checkpoint in the output folder.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = self.last_checkpoint()
        compiled = self._choose()
        edit = self.method.gradient_edit
        try:
            with (
                float32_matmul(self.model),
                compiled_blocks(self.model, first_changed_block(self.model)) if compiled else nullcontext(),
                nullcontext() if edit is None else edit.installed(self.model),
            ):
                if isinstance(resume_from_checkpoint, str) and self.load_if_finished(resume_from_checkpoint):
                    return TrainOutput(self.state.global_step, float("nan"), {})
                found: TrainOutput = super().train(resume_from_checkpoint, *args, **kwargs)
                return found
        except torch.OutOfMemoryError as error:
            raise MachineError(
                f"out of memory with {self.pairs.micro_batch_tokens or 'all'} tokens in a micro-batch; a "
                "smaller data.micro_batch_tokens or data.batch_size, or training.gradient_checkpointing, needs less"
            ) from error

    def _choose(self) -> bool:
        """Choose the size of micro-batches and whether to compile decoder blocks, and log both with their reasons."""
        pairs = self._with_fitting_trunk()
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            tokens = Choice(0, "all processes must run the same number of micro-batches")
        else:
            tokens = choose_micro_batch_tokens(pairs.micro_batch_tokens, self.model)
        self.pairs = self.data_collator = replace(pairs, micro_batch_tokens=int(tokens.value))
        weights = next(p for p in self.model.parameters() if p.is_floating_point())
        config = ModelConfig(compile=self.compile)
        compiled = choose_compile(config, weights.dtype, weights.device, self.n_steps, self.method.hooks_inside_blocks)
        shown = f"at most {tokens.value} tokens" if tokens.value else "one a batch"
        log.info(f"micro-batches: {shown} ({tokens.reason})")
        log.info(f"blocks: {'compiled' if compiled.value else 'not compiled'} ({compiled.reason})")
        return bool(compiled.value)

    def _with_fitting_trunk(self) -> PairCollator:
        """Return the pairs; without their trunk, and a log line, where the policy's passes cannot begin behind it."""
        block = self.pairs.first_block
        sharded, mixed = self.is_fsdp_enabled or self.is_deepspeed_enabled, self.accelerator.mixed_precision != "no"
        if block and (sharded or mixed or first_changed_block(self.model) < block):
            why = "weights in pieces" if sharded else "mixed precision" if mixed else "an adapter on an earlier block"
            log.info(f"trunk: not used in training, every pass begins at the embedding ({why})")
            return self.pairs.without_trunk()
        return self.pairs

    # -- the loss ----------------------------------------------------------------------------------------------------

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Mapping[str, PairBatch],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return one micro-batch's share of the mean loss over all pairs of the optimiser step."""
        pairs = inputs["pairs"]
        out = self.loss_on(model, pairs, training=True)
        if self.state.global_step == 0:
            check_trained(out)
        self._unchecked.append((self.state.global_step + 1, pairs.ids, out.per_pair.detach()))
        if self.checks_every_micro_batch:
            self.check_losses()
        self.shares.add(out, self.method.term_weights, self.model.parameters())
        self._record(out)
        n_pairs = len(pairs.ids) if num_items_in_batch is None else num_items_in_batch
        loss = out.per_pair.sum() / n_pairs
        if num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes  # DDP and FSDP average gradients over processes
        return (loss, out) if return_outputs else loss

    def check_losses(self) -> None:
        """Raise UserError naming step and pairs if a loss since the last look was nan or inf."""
        looked_at, self._unchecked = self._unchecked, []
        for step, ids, per_pair in looked_at:
            bad = [i for i, ok in zip(ids, torch.isfinite(per_pair).tolist(), strict=True) if not ok]
            if bad:
                raise UserError(
                    f"the loss is not finite at step {step} for {len(bad)} of {len(ids)} pairs: {', '.join(bad)}; "
                    f"a lower training.lr (now {self.args.learning_rate:g}) may help"
                )

    def loss_on(self, model: nn.Module, pairs: PairBatch, training: bool = False) -> LossOutput:
        """Run policy (and, where its token states are not cached, reference) on a batch of pairs and companions.

        ``training``: under the method's ablation or inoculation, which evaluation does without. Companions are not
        inoculated.
        """
        notes, transform = (
            None if pairs.notes is None else pairs.notes.to(self.accelerator.device),
            self.method.transform,
        )
        requests = self.method.companions
        tokens, policy, cached = self._run(model, pairs, self.method.request, training)
        companions = {}
        for kind, batch in pairs.companions.items():
            _, here, there = self._run(model, batch, requests[kind], training)
            companions[kind] = batch.with_policy(here, there)
        ours, theirs = (PairOutputs.of(found, tokens, transform) for found in (policy, cached))
        return self.method.loss(ours, theirs, notes, companions)

    def _run(
        self, model: nn.Module, batch: PairBatch | CompanionBatch, request: StateRequest | None, training: bool
    ) -> tuple[TokenBatch, SequenceOutputs, SequenceOutputs]:
        """Return a batch's tokens, the policy's outputs and the reference's, on the device."""
        device = self.accelerator.device
        tokens, cached = batch.tokens.to(device, non_blocking=True), batch.reference.to(device, non_blocking=True)
        bare = self.accelerator.unwrap_model(model)
        if request is not None and request.token_states and cached.token_states is None:
            with (
                self.method.reference_while_training(bare) if training else nullcontext(),
                reference_mode(bare),
                self.accelerator.autocast(),
            ):
                cached = sequence_outputs(model, tokens, request)
        pairs = tokens if isinstance(batch, PairBatch) else None
        with self.method.policy_while_training(bare, pairs) if training else nullcontext(), self.accelerator.autocast():
            policy = sequence_outputs(model, tokens, request)
        return tokens, policy, cached

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """One batch, in micro-batches; the method's gradient edit follows the step's last batch, before clipping."""
        parts: list[PairBatch] = inputs["micro_batches"]
        self.shares.begin(self.state.global_step, len(parts))
        loss = torch.zeros((), device=self.args.device)
        for pairs in parts:  # gradients are exchanged between processes with the last one
            with nullcontext() if pairs is parts[-1] else self.accelerator.no_sync(model):
                loss = loss + super().training_step(model, {"pairs": pairs}, num_items_in_batch)
        self._shares |= self.shares.finish()
        if self.method.gradient_edit is not None and self.accelerator.sync_gradients:
            self.method.gradient_edit.after_backward(model)
        return loss

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Tensor | int:
        """Pairs in the whole optimiser step, over all batches and processes."""
        here = sum(len(p.ids) for b in batch_samples for p in b["micro_batches"])
        if self.args.world_size == 1:
            return here
        everywhere: Tensor = self.accelerator.gather(torch.tensor(here, device=device)).sum()
        return everywhere

    def _get_train_sampler(self, train_dataset: Any = None) -> PairSampler:
        return self.sampler

    def floating_point_ops(self, inputs: Any) -> int:
        """Not estimated: the Trainer's estimate counts padded (row, time) cells of one sequence a row."""
        return 0

    # -- evaluation --------------------------------------------------------------------------------------------------

    def evaluate(
        self,
        eval_dataset: str | PairCollator | Mapping[str, PairCollator] | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Return and log loss and metrics of every evaluation set: means over its pairs, ``eval_<set>_<metric>``.

        ``eval_dataset`` is a set or the name of one; by default all sets that the trainer was given are evaluated.
        """
        found: dict[str, float] = {}
        for name, pairs in chosen_sets(self.eval_pairs, eval_dataset).items():
            found |= self._evaluate_set(pairs, f"{metric_key_prefix}_{name}" if name else metric_key_prefix)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, found)
        return found

    def _evaluate_set(self, pairs: PairCollator, prefix: str) -> dict[str, float]:
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        model, started = self.model_wrapped if sharded else self.model, time.time()
        was_training = model.training
        model.eval()
        try:
            with torch.no_grad():
                means = mean_metrics(
                    lambda batch: self.loss_on(model, batch),
                    pairs,
                    self.args.per_device_eval_batch_size,
                    self.accelerator,
                )
        finally:
            model.train(was_training)
        logs = {f"{prefix}_{name}": value for name, value in means.items()}
        logs |= speed_metrics(prefix, started, num_samples=len(pairs.items))
        self.log(logs)
        return logs

    # -- logs --------------------------------------------------------------------------------------------------------

    def _record(self, out: LossOutput) -> None:
        values = {f"loss/{k}": v for k, v in out.terms.items()} | out.metrics
        for name, value in values.items():
            total = value.detach().sum()
            self._sums[name] = self._sums[name] + total if name in self._sums else total
        self._count += len(out.per_pair)

    def _means(self) -> dict[str, float]:
        """Return means since the last line, over the pairs of all processes."""
        totals = torch.stack([*self._sums.values(), torch.tensor(float(self._count), device=self.args.device)])
        *sums, count = self.accelerator.reduce(totals, "sum").tolist()
        return {name: total / count for name, total in zip(self._sums, sums, strict=True)}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the mean of every term and metric since the last line, and append the line to metrics.jsonl."""
        self.check_losses()
        if "loss" in logs and self._count:
            logs |= self._means() | self._shares
            self._sums, self._count, self._shares = {}, 0, {}
        super().log(logs, start_time)
        if self.metrics_path is not None and self.is_world_process_zero():
            line = json.dumps({"step": self.state.global_step, **logs})
            with machine_errors(self.metrics_path), self.metrics_path.open("a") as file:
                file.write(line + "\n")
