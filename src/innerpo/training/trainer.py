"""PairTrainer: transformers' Trainer with a loss on pairs, exact accumulation and checkpoints that appear whole."""

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from innerpo.data.batching.batch import TokenBatch, make_batch
from innerpo.data.batching.order import by_prompt, rows_of, token_batches
from innerpo.data.batching.row_plan import Layout
from innerpo.data.tokens import PromptItem
from innerpo.errors import UserError
from innerpo.files import machine_errors
from innerpo.methods.method import LossOutput, Method
from innerpo.methods.records import PairOutputs
from innerpo.model.base import reference_mode
from innerpo.model.forward.outputs import SequenceOutputs, sequence_outputs
from innerpo.model.reference import Reference
from innerpo.training.sampler import PairSampler
from innerpo.training.shares import GradientShares


@dataclass(frozen=True)
class PairBatch:
    """Some pairs as tokens, with the reference's outputs on them and their ids for error messages."""

    tokens: TokenBatch
    reference: SequenceOutputs
    ids: list[str]

    def pin_memory(self, device: Any = None) -> "PairBatch":
        """Return the batch in page-locked memory (torch's DataLoader calls this)."""
        return replace(self, tokens=self.tokens.pin_memory(device), reference=self.reference.pin_memory(device))


@dataclass(frozen=True)
class PairCollator:
    """Turns indices of pairs into micro-batches of like length, of at most ``micro_batch_tokens`` padded tokens each.

    0 = no limit: one micro-batch.
    """

    items: Sequence[PromptItem]
    reference: Reference
    layout: Layout
    pad_id: int
    micro_batch_tokens: int = 0

    def __call__(self, indices: Sequence[int]) -> dict[str, list[PairBatch]]:
        """Return ``{"passes": batches}``: the Trainer wants a mapping."""
        rows = [rows_of(self.items[i], self.layout) for i in indices]
        parts = token_batches(rows, self.micro_batch_tokens, self.layout)
        return {"passes": [self._batch(by_prompt(self.items, [indices[k] for k in part])) for part in parts]}

    def _batch(self, indices: Sequence[int]) -> PairBatch:
        items = [self.items[i] for i in indices]
        return PairBatch(
            tokens=make_batch(items, self.layout, self.pad_id),
            reference=self.reference.select(indices),
            ids=[item.pairs[0][2] for item in items],
        )


class _Indices(Dataset[int]):
    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> int:
        return index


class _SetEpoch(TrainerCallback):
    """Tells the sampler the epoch, also after resuming, when the Trainer starts in the middle of one."""

    def __init__(self, sampler: PairSampler) -> None:
        self.sampler = sampler

    def on_epoch_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.sampler.set_epoch(int((state.epoch or 0.0) + 1e-6))


class PairTrainer(Trainer):
    """Trains a policy with a Method. Everything else (optimiser, schedule, distribution, resuming) is the Trainer's."""

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        method: Method,
        collator: PairCollator,
        *,
        grad_share_steps: int = 0,
        metrics_path: Path | None = None,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        self.sampler = PairSampler(len(collator.items), args.seed)
        super().__init__(
            model=model,
            args=args,
            data_collator=collator,
            train_dataset=_Indices(len(collator.items)),
            callbacks=[_SetEpoch(self.sampler), *callbacks],
        )
        # The loss is divided by the pairs of the whole step below, not by the number of accumulated batches.
        self.model_accepts_loss_kwargs = True
        self.method = method.to(self.accelerator.device)
        self.shares = GradientShares(grad_share_steps if self.args.world_size == 1 else 0)
        self._shares: dict[str, float] = {}
        self.metrics_path = metrics_path
        # On a GPU a look at the values would hold the host up until the pass is done; there, when something is logged.
        self.looks_at_every_pass = self.args.device.type == "cpu"
        self._unchecked: list[tuple[int, list[str], Tensor]] = []
        self._sums: dict[str, Tensor] = {}
        self._count = 0
        self._staging: Path | None = None

    # -- the loss ----------------------------------------------------------------------------------------------------

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Mapping[str, PairBatch],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return one pass's share of the mean loss over all pairs of the optimiser step."""
        pairs = inputs["pairs"]
        out = self.loss_on(model, pairs)
        self._unchecked.append((self.state.global_step + 1, pairs.ids, out.per_pair.detach()))
        if self.looks_at_every_pass:
            self._raise_if_not_finite()
        self.shares.add(out, self.method.weights, self.model.parameters())
        self._record(out)
        n_pairs = len(pairs.ids) if num_items_in_batch is None else num_items_in_batch
        loss = out.per_pair.sum() / n_pairs
        if num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes  # DDP and FSDP average gradients over processes
        return (loss, out) if return_outputs else loss

    def _raise_if_not_finite(self) -> None:
        """Raise UserError naming step and pairs if a loss since the last look was nan or inf."""
        looked_at, self._unchecked = self._unchecked, []
        for step, ids, per_pair in looked_at:
            bad = [i for i, ok in zip(ids, torch.isfinite(per_pair).tolist(), strict=True) if not ok]
            if bad:
                raise UserError(
                    f"the loss is not finite at step {step} for {len(bad)} of {len(ids)} pairs: {', '.join(bad)}; "
                    f"a lower training.lr (now {self.args.learning_rate:g}) may help"
                )

    def loss_on(self, model: nn.Module, pairs: PairBatch) -> LossOutput:
        """Run policy (and, where its token states are not cached, reference) on a batch of pairs."""
        device = self.accelerator.device
        request, transform = self.method.request, self.method.transform
        tokens, cached = pairs.tokens.to(device, non_blocking=True), pairs.reference.to(device, non_blocking=True)
        if request is not None and request.tokens and cached.tokens is None:
            with reference_mode(self.accelerator.unwrap_model(model)):
                cached = sequence_outputs(model, tokens, request)
        policy = sequence_outputs(model, tokens, request)
        return self.method.loss(PairOutputs.of(policy, tokens, transform), PairOutputs.of(cached, tokens, transform))

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """One batch, in passes; the method's gradient edit follows the last batch of a step, before clipping."""
        passes: list[PairBatch] = inputs["passes"]
        self.shares.begin(self.state.global_step, len(passes))
        loss = torch.zeros((), device=self.args.device)
        for pairs in passes:  # gradients are exchanged between processes with the last one
            with nullcontext() if pairs is passes[-1] else self.accelerator.no_sync(model):
                loss = loss + super().training_step(model, {"pairs": pairs}, num_items_in_batch)
        self._shares |= self.shares.finish()
        if self.method.gradient_edit is not None and self.accelerator.sync_gradients:
            self.method.gradient_edit.after_backward(model)
        return loss

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Tensor | int:
        """Pairs in the whole optimiser step, over all batches and processes."""
        here = sum(len(p.ids) for b in batch_samples for p in b["passes"])
        if self.args.world_size == 1:
            return here
        everywhere: Tensor = self.accelerator.gather(torch.tensor(here, device=device)).sum()
        return everywhere

    def _get_train_sampler(self, train_dataset: Any = None) -> PairSampler:
        return self.sampler

    def floating_point_ops(self, inputs: Any) -> int:
        """Not estimated: the Trainer's estimate counts padded (row, time) cells of one sequence a row."""
        return 0

    # -- logs --------------------------------------------------------------------------------------------------------

    def _record(self, out: LossOutput) -> None:
        values = {f"loss/{k}": v for k, v in out.terms.items()} | out.metrics
        for name, value in values.items():
            total = value.detach().sum()
            self._sums[name] = self._sums[name] + total if name in self._sums else total
        self._count += len(out.per_pair)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the mean of every term and metric since the last line, and append the line to metrics.jsonl."""
        self._raise_if_not_finite()
        if "loss" in logs and self._count:
            logs |= {name: (total / self._count).item() for name, total in self._sums.items()} | self._shares
            self._sums, self._count, self._shares = {}, 0, {}
        super().log(logs, start_time)
        if self.metrics_path is not None and self.is_world_process_zero():
            line = json.dumps({"step": self.state.global_step, **logs})
            with machine_errors(self.metrics_path), self.metrics_path.open("a") as file:
                file.write(line + "\n")

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._staging or self.args.output_dir)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write a checkpoint aside and rename it, then drop the older ones: a kill leaves the last whole one."""
        self._raise_if_not_finite()
        root = Path(str(self.args.output_dir))
        self._staging = root / ".partial"
        try:
            with machine_errors(root):
                if self.is_world_process_zero():
                    shutil.rmtree(self._staging, ignore_errors=True)
                self.accelerator.wait_for_everyone()
                super()._save_checkpoint(model, trial)
                self.accelerator.wait_for_everyone()
                if self.is_world_process_zero():
                    name = f"checkpoint-{self.state.global_step}"
                    shutil.rmtree(root / name, ignore_errors=True)
                    (self._staging / name).replace(root / name)
                    for older in root.glob("checkpoint-*"):
                        if older.name != name:
                            shutil.rmtree(older, ignore_errors=True)
        finally:
            self._staging = None
