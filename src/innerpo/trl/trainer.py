"""InnerPOTrainer: PairTrainer with the arguments of TRL's DPOTrainer."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers.trainer_utils import TrainOutput

from innerpo.config.run import RunConfig
from innerpo.data.pairs import shuffle_labels, shuffle_prompts
from innerpo.data.tokens import PromptItem
from innerpo.errors import UserError, fields_in
from innerpo.files import cache_root
from innerpo.methods.gradients.fit import fit_gradients
from innerpo.methods.inner_reward import InnerReward
from innerpo.model.forward.outputs import StateRequest
from innerpo.model.reference import Reference, compute_reference
from innerpo.training.arguments import check_processes
from innerpo.training.collate import PairCollator
from innerpo.training.companions import companions_of
from innerpo.training.directions_file import DIRECTIONS, save_directions
from innerpo.training.prepare import Prepared, prepare_items
from innerpo.training.trainer import PairTrainer
from innerpo.trl.arguments import check_parameters
from innerpo.trl.config import InnerPOConfig
from innerpo.trl.data import check_length, items_of, pairs_of
from innerpo.trl.model import check_untrained, load, load_tokenizer, source_of

OPTIONS = {
    # field of a run's config -> argument of InnerPOConfig, where the two have other names
    "training.lr": "learning_rate",
    "data.batch_size": "per_device_train_batch_size",
}


class InnerPOTrainer(PairTrainer):
    """Trains a model on preference pairs, with the arguments of TRL's DPOTrainer (docs/from-trl.md has them all).

    Reference outputs are computed here, once, and preference directions are fitted on them; ``train()`` then is
    transformers' own loop. ``trainer.model`` is what is trained: the model with its adapter or, without a
    ``peft_config``, the model itself, in place.

    Raises UserError for an argument that cannot be honoured, naming what to use instead.
    """

    def __init__(
        self,
        model: Any,
        ref_model: Any = None,
        args: InnerPOConfig | None = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        compute_metrics: Any = None,
        callbacks: Sequence[Any] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        quantization_config: Any = None,
        peft_config: Any = None,
    ) -> None:
        check_parameters({"data_collator": data_collator, "compute_metrics": compute_metrics})
        args = _arguments(args, model)
        args.remove_unused_columns = args.logging_nan_inf_filter = False
        args.dataloader_pin_memory = args.dataloader_pin_memory and args.device.type == "cuda"
        with _argument_names():
            model = load(model, args, quantization_config)
            tokenizer = load_tokenizer(processing_class, model, args)
            self.source = source_of(model, tokenizer, args, ref_model, peft_config)
            self.config = args.run_config(full=self.source.is_full)
            check_processes(self.config, mixed=True)
            self._max_length = args.max_length
            self._eval_batch_size = args.precompute_ref_batch_size or args.per_device_eval_batch_size
            self._precision = _autocast(args)
            items = self._items(train_dataset, "train_dataset")
            check_untrained(self.source, items[0])
            with self._precision():
                self.prepared = prepare_items(self.config, self.source.base, items)
            eval_pairs = self._eval_pairs(eval_dataset)
            policy = self.source.attach(args.seed)
            with self._precision():
                method = _with_gradients(self.prepared, policy, self.config)
            super().__init__(
                policy,
                args,
                method,
                self.prepared.pairs,
                eval_pairs=eval_pairs,
                compile=self.config.model.compile,
                grad_share_steps=self.config.training.grad_share_steps,
                callbacks=callbacks or (),
                processing_class=tokenizer,
                optimizers=optimizers,
            )

    @property
    def inner_reward(self) -> InnerReward | None:
        """The fitted directions, which score responses; None for a method without."""
        return self.prepared.method.inner_reward

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """Train to the end, or on from a checkpoint, as transformers' Trainer does."""
        with _argument_names():
            return super().train(*args, **kwargs)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Return and log ``eval_loss``, ``eval_rewards/accuracies``, ...; ``eval_<name>_loss``, ... of sets by name.

        ``eval_dataset`` is the name of a set that the trainer has, or other data; by default the trainer's own sets.
        """
        if eval_dataset is not None and not isinstance(eval_dataset, str):
            eval_dataset = self._eval_pairs(eval_dataset)
        return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save the adapter (or the model), the tokenizer and, beside them, the preference directions."""
        super()._save(output_dir, state_dict)
        if not self.args.should_save:
            return
        path = Path(output_dir or self.args.output_dir) / DIRECTIONS
        if self.inner_reward is not None:
            save_directions(path, self.inner_reward)
        else:
            path.unlink(missing_ok=True)  # of an earlier training into this folder

    # -- data --------------------------------------------------------------------------------------------------------

    def _items(self, rows: Any, name: str) -> list[PromptItem]:
        data = self.config.data
        if rows is None:
            raise UserError(f"{name} is required")
        pairs = pairs_of(rows, name, data.on_bad_row)
        if name == "train_dataset":
            pairs = shuffle_labels(pairs, data.shuffled_labels, data.seed)
            pairs = shuffle_prompts(pairs, data.seed) if data.shuffled_prompts else pairs
        base, per_prompt = self.source.base, self.config.method.pool == "first_divergence"
        items = items_of(pairs, base.tokenizer, self._max_length, name, per_prompt)
        check_length(items, base.model, name)
        return items

    def _eval_pairs(self, eval_dataset: Any) -> dict[str, PairCollator]:
        """Return evaluation sets by name, each with its reference outputs; a single set has the empty name."""
        if eval_dataset is None:
            return {}
        sets = eval_dataset if isinstance(eval_dataset, Mapping) else {"": eval_dataset}
        return {name: self._with_reference(rows, name) for name, rows in sets.items()}

    def _with_reference(self, rows: Any, name: str) -> PairCollator:
        what = f"eval_dataset[{name!r}]" if name else "eval_dataset"
        items, prepared, data = self._items(rows, what), self.prepared, self.config.data
        policy, is_full = getattr(self, "model", None), self.source.is_full
        if policy is not None and is_full and self.state.global_step > 0:
            raise UserError(
                "after full fine-tuning the reference is gone; give evaluation sets when the trainer is made"
            )

        def compute(some: Sequence[PromptItem], request: StateRequest | None, what: str) -> Reference:
            return compute_reference(
                self.source.base,
                some,
                prepared.layout.layout,
                request,
                batch_size=self._eval_batch_size,
                cache_dir=cache_root(data.cache_dir),
                what=what,
                token_limit_bytes=float("inf") if is_full else data.token_cache_gb * 1e9,
            )

        method, base = prepared.method, self.source.base
        with self._precision(), nullcontext() if policy is None or is_full else policy.disable_adapter():
            reference = compute(items, method.request, what)
            companions = companions_of(self.config, base, items, method, compute, range(len(items)))
        return PairCollator(items, reference, prepared.layout.layout, base.pad_id, companions=companions)


def _arguments(args: Any, model: Any) -> InnerPOConfig:
    if args is None:
        name = model if isinstance(model, str | Path) else model.config._name_or_path
        return InnerPOConfig(f"{Path(str(name)).name}-InnerPO")
    if not isinstance(args, InnerPOConfig):
        raise UserError(
            f"args must be an InnerPOConfig (from innerpo.trl import InnerPOConfig), got {type(args).__name__}"
        )
    return args


def _with_gradients(prepared: Prepared, policy: Any, config: RunConfig) -> Any:
    return fit_gradients(
        prepared.method,
        policy,
        prepared.base,
        prepared.items,
        prepared.layout.layout,
        batch_size=config.data.batch_size,
        cache_dir=cache_root(config.data.cache_dir),
        seed=config.training.seed,
    )


def _autocast(args: InnerPOConfig) -> Callable[[], Any]:
    """Return the mixed precision of training, for passes of the reference: the two must round alike."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(args.mixed_precision)
    return nullcontext if dtype is None else lambda: torch.autocast(args.device.type, dtype)


@contextmanager
def _argument_names() -> Iterator[None]:
    """Name arguments of InnerPOConfig, in place of fields of a run's config, in errors."""
    try:
        yield
    except UserError as error:
        text = str(error)
        for name in fields_in(text):
            text = text.replace(name, OPTIONS.get(name, name.rsplit(".", 1)[-1]))
        if text == str(error):
            raise
        raise type(error)(text, *error.fields) from error
