"""What each argument of TRL's DPOConfig and DPOTrainer is here: the same, without effect, or refused by name.

A test compares these tables with TRL's own lists of arguments and with docs/from-trl.md.
"""

from dataclasses import dataclass
from typing import Any

from innerpo.errors import UserError


@dataclass(frozen=True)
class Refused:
    """An argument that only has the accepted values here, and what to use in place of another one."""

    instead: str
    accepted: tuple[Any, ...] = (None,)


SUPPORTED = {
    "model_init_kwargs": "for a model given by name; dtype float32 where it names none, as in TRL",
    "trust_remote_code": "",
    "max_length": "responses are cut on the right; pairs whose prompt fills it are left out",
    "loss_type": "sigmoid, sigmoid_norm, hinge, ipo, robust, apo_zero or apo_down; the field output has more",
    "beta": "None: the method's own default",
    "ld_alpha": "with loss_type sigmoid only, which then is output='lddpo'",
    "label_smoothing": "for loss_type robust, and for output='cdpo', which older versions of TRL had under this name",
    "precompute_ref_batch_size": "None: per_device_train_batch_size or per_device_eval_batch_size",
    "bf16": "None: where the GPU has it (in TRL: True)",
    "gradient_checkpointing": "never reentrant",
    "data_seed": "seed of the order of pairs; None: seed",
    "ddp_find_unused_parameters": "False by default",
    "eval_strategy": "losses, rewards and their accuracies of every evaluation set are logged",
}
"""Arguments that mean the same, with what a reader should know. Every field of TrainingArguments that stands in none of
the three tables is one too: transformers' Trainer does what it says."""

WITHOUT_EFFECT = {
    "precompute_ref_log_probs": "always done: the reference is computed once and cached",
    "dataset_num_proc": "pairs are tokenised in this process",
    "padding_free": "the field layout chooses how responses share rows",
    "pad_to_multiple_of": "results do not depend on padding",
    "f_alpha_divergence_coef": "belongs to f_divergence_type",
    "discopop_tau": "belongs to a loss_type",
    "ref_model_mixup_alpha": "belongs to sync_ref_model",
    "ref_model_sync_steps": "belongs to sync_ref_model",
    "use_liger_kernel": "the LM head is computed in chunks, on completion tokens only",
    "liger_kernel_config": "as use_liger_kernel",
    "use_cache": "never in training",
    "logging_nan_inf_filter": "a loss that is not finite is an error",
    "average_tokens_across_devices": "the loss is a mean over the pairs of all processes",
    "remove_unused_columns": "columns but prompt, chosen and rejected are not read",
    "length_column_name": "lengths are known",
    "prediction_loss_only": "evaluation keeps no predictions",
    "eval_do_concat_batches": "evaluation keeps no predictions",
    "eval_use_gather_object": "evaluation keeps no predictions",
    "eval_accumulation_steps": "evaluation keeps no predictions",
    "batch_eval_metrics": "belongs to compute_metrics",
    "include_for_metrics": "belongs to compute_metrics",
    "label_names": "labels are the completion tokens",
}
"""Arguments that are accepted and change nothing, with the reason."""

REFUSED = {
    "router_aux_loss_coef": Refused("the load-balancing loss of mixture-of-experts models is not added", (None, 0.0)),
    "disable_dropout": Refused("the policy is compared with a reference that is computed once, without noise", (True,)),
    "truncation_mode": Refused("responses are cut on the right (keep_start)", ("keep_start",)),
    "loss_weights": Refused("weights of terms are fields: alpha, gamma, sft and others"),
    "f_divergence_type": Refused("rewards are log-ratios (reverse_kl)", ("reverse_kl",)),
    "use_weighting": Refused("all pairs count the same", (False,)),
    "activation_offloading": Refused("gradient_checkpointing=True or micro_batch_tokens save memory", (False,)),
    "sync_ref_model": Refused("the reference stays what the model was before training", (False,)),
    "pad_token": Refused("set tokenizer.pad_token and give the tokenizer as processing_class"),
    "label_smoothing_factor": Refused("label_smoothing with loss_type='robust' or output='cdpo'", (0.0,)),
    "torch_compile": Refused("compile='on' compiles the decoder blocks", (False,)),
    "torch_compile_backend": Refused("compile='on' compiles the decoder blocks"),
    "torch_compile_mode": Refused("compile='on' compiles the decoder blocks"),
    "auto_find_batch_size": Refused(
        "micro_batch_tokens splits a batch to fit the memory, with equal gradients", (False,)
    ),
    "include_num_input_tokens_seen": Refused("tokens are not counted; steps and pairs are", ("no", False)),
    "bf16_full_eval": Refused("bf16=True is mixed precision in evaluation too", (False,)),
    "fp16_full_eval": Refused("fp16=True is mixed precision in evaluation too", (False,)),
    "train_sampling_strategy": Refused("the order is a uniform shuffle by seed (random)", ("random",)),
    "parallelism_config": Refused("rows that hold several responses are not split; use FSDP or more processes"),
}
"""Arguments that are accepted only with the values that mean nothing, with what to use in place of others."""

PARAMETERS: dict[str, str | Refused] = {
    "model": "a name, a folder, a model in memory, or one with an untrained adapter",
    "ref_model": "only the model once more, which is the reference before training",
    "args": "an InnerPOConfig",
    "train_dataset": "a datasets.Dataset or a list of rows; streams must be made lists first",
    "eval_dataset": "one set, or a dict of sets by name",
    "processing_class": "a tokenizer",
    "callbacks": "",
    "optimizers": "",
    "quantization_config": "for a model given by name",
    "peft_config": "any peft configuration that changes weights alone and none of the base's own (no trained biases, "
    "PiSSA or OLoRA: the reference is the model with the adapter off); None: full fine-tuning, in place",
    "data_collator": Refused("the batches of a pair's responses are made by the trainer; see the field layout"),
    "compute_metrics": Refused(
        "loss, rewards and accuracies of evaluation sets are logged; innerpo.evaluate scores runs"
    ),
}
"""Parameters of DPOTrainer: what they take, or that they are refused."""


def check_values(given: dict[str, Any], defaults: dict[str, Any]) -> list[str]:
    """Refuse values that have no meaning here; return a sentence for every other value that has no effect.

    ``defaults`` are the values of fields that nobody set: those are not worth a sentence.
    """
    for name, refused in REFUSED.items():
        if given[name] not in refused.accepted:
            usual = refused.accepted[0]
            raise UserError(f"{name} can only be {usual!r} here, got {given[name]!r}: {refused.instead}")
    return [
        f"{name}={given[name]!r} has no effect: {reason}"
        for name, reason in WITHOUT_EFFECT.items()
        if given[name] != defaults[name]
    ]


def check_parameters(given: dict[str, Any]) -> None:
    """Refuse parameters of the trainer that are not supported. ``given`` has them by name, None where not given."""
    for name, value in given.items():
        meaning = PARAMETERS[name]
        if value is not None and isinstance(meaning, Refused):
            raise UserError(f"{name} cannot be given: {meaning.instead}")


def argument_table() -> str:
    """Return the tables as Markdown, for docs/from-trl.md."""
    lines = ["| argument | here |", "| --- | --- |"]
    for name, meaning in PARAMETERS.items():
        text = f"refused: {meaning.instead}" if isinstance(meaning, Refused) else f"the same{_after(meaning)}"
        lines.append(f"| `DPOTrainer({name}=...)` | {text} |")
    lines += [f"| `{name}` | the same{_after(note)} |" for name, note in SUPPORTED.items()]
    lines += [f"| `{name}` | no effect: {reason} |" for name, reason in WITHOUT_EFFECT.items()]
    for name, refused in REFUSED.items():
        accepted = " or ".join(f"`{value!r}`" for value in refused.accepted)
        lines.append(f"| `{name}` | only {accepted}: {refused.instead} |")
    return "\n".join(lines) + "\n"


def _after(note: str) -> str:
    return f"; {note}" if note else ""
