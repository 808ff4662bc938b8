"""InnerPOConfig: the arguments of TRL's DPOConfig, and a method's options as further fields."""
# ruff: noqa: RUF009 - _option is dataclasses.field by another name

import dataclasses
import logging
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from transformers import TrainingArguments

from innerpo.config.method import MethodConfig, default_method
from innerpo.config.run import RunConfig, default_run
from innerpo.config.yaml import overlay
from innerpo.errors import UserError
from innerpo.training.arguments import use_one_gpu
from innerpo.trl.arguments import check_values

log = logging.getLogger(__name__)

LOSS_TYPES: dict[str, dict[str, Any]] = {
    "sigmoid": {"output": "dpo"},
    "sigmoid_norm": {"output": "dpo_norm"},
    "hinge": {"output": "hinge"},
    "ipo": {"output": "ipo"},
    "robust": {"output": "robust", "label_smoothing": 0.0},
    "apo_zero": {"output": "apo_zero"},
    "apo_down": {"output": "apo_down"},
}
"""TRL's name of a loss -> the output form that it is here, and TRL's defaults of its options where they are others."""

NOT_FIELDS = {"name": "the field method", "frozen": "nothing would be trained; innerpo.train('probe') measures it"}
"""Fields of MethodConfig that InnerPOConfig does not have, and why."""


def _option(help: str, default: Any = None) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass
class InnerPOConfig(TrainingArguments):
    """Arguments of InnerPOTrainer: those of TRL's DPOConfig with TRL's defaults, and the options of a method.

    ``method`` is a method's name (``innerpo``, ``dpo``, ``projbp``, ``innerpo-supr``, ...; ``dpo`` gives TRL's losses).
    A method's options have their names of ``innerpo.MethodConfig``; None means the method's own default. Can be read
    from a command line by transformers' HfArgumentParser and TRL's TrlParser.

    Raises UserError for an argument of TRL's that cannot be honoured; the message names what to use instead.
    """

    _VALID_DICT_FIELDS = [*TrainingArguments._VALID_DICT_FIELDS, "model_init_kwargs", "subspace", "extra"]  # noqa: RUF012

    # Defaults of TRL's configurations that are not those of transformers.
    learning_rate: float = _option("Peak learning rate.", 1e-6)
    logging_steps: float = _option("Steps between log lines.", 10)
    gradient_checkpointing: bool = _option("Compute activations again in the backward pass: less memory.", True)
    bf16: bool | None = _option("Mixed precision in bfloat16; by default where the GPU has it.")
    ddp_find_unused_parameters: bool | None = _option("Off: every trained weight takes part in every step.", False)

    # The method, and its options: None = the method's own default.
    method: str = _option("Name of the method.", "innerpo")
    transform: str | None = _option("Linear map of pooled states: none, supr, ether, ortho, hra, svd, random.")
    subspace: dict[str, Any] | str | None = _option("Options of the transform, by name (rank, supr_mode, ...).")
    layers: str | None = _option("Decoder blocks read: indices, negative ones, fractions, ranges.")
    site: str | None = _option("Where in a block states are read: residual, attn_out, mlp_out, o_proj_in, ...")
    pool: str | None = _option("Completion tokens averaged: mean, last, first_divergence.")
    direction: str | None = _option("Preference direction: shared, pair, mix, lda, context, artifact, random.")
    mix: float | None = _option("Weight of the pair's own direction in direction=mix.")
    lda_ridge: float | None = _option("Ridge of direction=lda.")
    remove: list[str] | None = _option("Regressed out of directions: length, logprob.")
    layer_weights: str | None = _option("Weights of layers: accuracy or uniform.")
    output: str | None = _option("Loss on output log-probabilities: dpo, ipo, simpo, rdpo, ..., none.")
    beta: float | None = _option("Logits per nat of the output term's margin.")
    simpo_gamma: float | None = _option("SimPO's target margin, in logits.")
    rdpo_alpha: float | None = _option("R-DPO: logits that a token of length difference explains.")
    dpop_lambda: float | None = _option("DPOP: weight of the fall of the chosen response below the reference.")
    offset: str | None = _option("Residual's offset: probe, or a control (permuted, length, reversed).")
    offset_weight: float | None = _option("Weight of residual's offset.")
    reweight: str | None = _option(
        "Raise the weight of pairs: none, probe (those it gets wrong), disputed, or a control."
    )
    reweight_factor: float | None = _option("Weight of those pairs over that of the others.")
    cue: str | None = _option("What must not be learned: regressors, shared, artifact, top, random.")
    cue_rank: int | None = _option("Most dimensions of the cue, 1 to 8.")
    ablate: float | None = _option("Share of the cue taken out of all states while training.")
    soft_ablate: float | None = _option("Weight of the state difference's movement within the cue.")
    inoculate: float | None = _option("Standard deviations of the cue added to chosen states while training.")
    inner: str | None = _option("Form of the inner term: hinge, logistic, linear.")
    alpha: float | None = _option("Weight of the inner term.")
    tau: float | None = _option("Margin at which the inner term stops pulling, in standard deviations.")
    beta_h: float | None = _option("Slope of the logistic inner term.")
    gamma: float | None = _option("Weight of the drift term.")
    angle: float | None = _option("Weight of 1 - cos(policy difference, direction).")
    separation: float | None = _option("Weight of the relative size of the policy's difference.")
    coherence: float | None = _option("Weight of the rise of the chosen response's loss above the reference.")
    sft: float | None = _option("Weight of the chosen response's loss, nats per token.")
    reroute: float | None = _option("Weight of pulling rejected states to the reference's chosen ones.")
    retain: float | None = _option("Weight of holding chosen states where the reference has them.")
    mismatch: float | None = _option("Weight of the squared margin behind another pair's prompt.")
    foreign: float | None = _option("Weight of preferring the chosen response to another pair's.")
    ties: float | None = _option("Weight of the squared margin of two other pairs' responses (a control).")
    anchor_drift: float | None = _option("Weight of the movement of states on unlabelled texts.")
    anchor_kl: float | None = _option("Weight of the divergence of the output on unlabelled texts.")
    anchor_data: str | None = _option("Unlabelled texts: a data set, a .txt or .md file, self, sentences.")
    gradient: str | None = _option("Edit of gradients: none, projgrad, projbp.")
    kappa: float | None = _option("What projgrad and projbp keep of the gradient across the direction.")
    extra: dict[str, Any] | str | None = _option("Weights of further terms by name.")

    # How pairs become batches, and what is computed once.
    layout: str = _option("How responses share rows: auto, one_row, packed, concatenated.", "auto")
    micro_batch_tokens: int = _option("Most padded tokens of a forward and backward pass; 0 = by the memory.", 0)
    on_bad_row: str = _option("A row that cannot be used: error or skip.", "error")
    cache_dir: str | None = _option("Folder of reference outputs; else INNERPO_CACHE; else ~/.cache/innerpo.")
    token_cache_gb: float = _option("Largest file of reference token states, in gigabytes.", 4.0)
    compile: str = _option("Compile decoder blocks: auto, on, off.", "auto")
    grad_share_steps: int = _option("Steps between measurements of each term's share of the gradient; 0 = never.", 25)

    # Arguments of TRL's DPOConfig; innerpo.trl.arguments says what each is here.
    model_init_kwargs: dict[str, Any] | str | None = _option("Arguments of from_pretrained, for a model given by name.")
    trust_remote_code: bool = _option("Run code that comes with the model.", False)
    max_length: int | None = _option("Most tokens of a prompt with a response.", 1024)
    loss_type: list[str] = field(
        default_factory=lambda: ["sigmoid"], metadata={"help": "sigmoid, hinge, ...; see output."}
    )
    precompute_ref_batch_size: int | None = _option("Pairs per forward pass of the reference.")
    precompute_ref_log_probs: bool = _option("No effect: always done.", False)
    dataset_num_proc: int | None = _option("No effect.")
    padding_free: bool = _option("No effect; see layout.", False)
    pad_to_multiple_of: int | str | None = _option("No effect.", "auto")
    f_alpha_divergence_coef: float = _option("No effect.", 0.5)
    discopop_tau: float = _option("No effect.", 0.05)
    ref_model_mixup_alpha: float = _option("No effect.", 0.6)
    ref_model_sync_steps: int = _option("No effect.", 512)
    router_aux_loss_coef: float | None = _option("Not supported.")
    disable_dropout: bool = _option("Always.", True)
    truncation_mode: str = _option("Always keep_start.", "keep_start")
    loss_weights: list[float] | None = _option("Not supported; see alpha, gamma, sft.")
    ld_alpha: float | None = _option("LD-DPO: weight of the tokens beyond the shorter response's length.")
    f_divergence_type: str = _option("Always reverse_kl.", "reverse_kl")
    label_smoothing: float | None = _option("robust, cdpo: share of pairs whose label is taken to be wrong.")
    use_weighting: bool = _option("Not supported.", False)
    activation_offloading: bool = _option("Not supported.", False)
    sync_ref_model: bool = _option("Not supported.", False)
    pad_token: str | None = _option("Not supported; set tokenizer.pad_token.")

    def __post_init__(self) -> None:
        given: Any = self.loss_type
        self.loss_type = [given] if isinstance(given, str) else given
        self._check_trl_arguments()
        if self.bf16 is None:
            self.bf16 = (
                not self.fp16 and torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
            )
        self._name_checkpointing()
        super().__post_init__()
        self.use_liger_kernel = False
        use_one_gpu(self)
        self.run_config()  # refuses what the method does not know

    def _check_trl_arguments(self) -> None:
        defaults = {f.name: f.default for f in dataclasses.fields(self)}
        defaults["include_for_metrics"] = []
        for sentence in check_values(dict(vars(self)), defaults):
            log.warning(sentence)

    def _name_checkpointing(self) -> None:
        """Set the names that transformers has for checkpointing since 5.23, where TRL's older ones give a warning."""
        kwargs = self.gradient_checkpointing_kwargs
        renamed = "activation_checkpointing" in {f.name for f in dataclasses.fields(TrainingArguments)}
        if renamed:
            kwargs = self.activation_checkpointing_kwargs or kwargs
            if self.activation_checkpointing is None:
                setattr(self, "activation_checkpointing", self.gradient_checkpointing)  # noqa: B010
        kwargs = {"use_reentrant": False} if kwargs is None else kwargs
        if isinstance(kwargs, dict) and kwargs.get("use_reentrant"):
            raise UserError("gradient_checkpointing_kwargs: use_reentrant can only be False, since hooks read states")
        setattr(self, "activation_checkpointing_kwargs" if renamed else "gradient_checkpointing_kwargs", kwargs)

    @property
    def model_options(self) -> dict[str, Any]:
        """Arguments of from_pretrained."""
        options: Any = self.model_init_kwargs or {}
        return dict(options)

    def method_config(self) -> MethodConfig:
        """Return the method with its options. Raises UserError for a name or a value that it does not know."""
        given = {f.name: getattr(self, f.name, None) for f in dataclasses.fields(MethodConfig)}
        changes = {name: value for name, value in given.items() if value is not None and name not in NOT_FIELDS}
        if self.loss_type != ["sigmoid"]:
            if "output" in changes:
                raise UserError(
                    f"loss_type={self.loss_type!r} and output={self.output!r} name one thing twice; give one"
                )
            asked = LOSS_TYPES.get(self.loss_type[0], {}).get("output", "dpo")
            if (own := default_method(self.method).output) not in ("dpo", asked):
                raise UserError(
                    f"method={self.method!r} has a loss on outputs of its own ({own}), which "
                    f"loss_type={self.loss_type!r} would replace; leave loss_type out"
                )
            if len(self.loss_type) > 1 or self.loss_type[0] not in LOSS_TYPES:
                raise UserError(
                    f"loss_type can only be one of {', '.join(LOSS_TYPES)} here, got {self.loss_type!r}: see output "
                    "and the weights of terms (alpha, gamma, sft)"
                )
            changes = LOSS_TYPES[self.loss_type[0]] | changes
        config = self._with_options_of_forms(overlay(default_method(self.method), changes, "InnerPOConfig"))
        if config.frozen:
            raise UserError(f"method={self.method!r} trains nothing; innerpo.train(base, {self.method!r}) measures it")
        return config

    def _with_options_of_forms(self, config: MethodConfig) -> MethodConfig:
        """Turn DPO with ``ld_alpha`` into LD-DPO, as TRL does; refuse options that the form would ignore."""
        if self.ld_alpha is not None and config.output == "dpo":
            config = replace(config, output="lddpo")
        if self.ld_alpha is not None and config.output != "lddpo":
            raise UserError(f"ld_alpha applies to loss_type 'sigmoid' (output 'lddpo') here, not to {config.output!r}")
        if self.label_smoothing and config.output not in ("cdpo", "robust"):
            raise UserError(
                f"label_smoothing applies to loss_type 'robust' and to output 'cdpo', not to {config.output!r}: TRL "
                "would ignore it"
            )
        return config

    def run_config(self, full: bool = False) -> RunConfig:
        """Return what of these arguments the preparation of a run reads. ``full``: all weights are trained."""
        config = default_run(default_method(self.method).name)
        data = {
            "dataset": "train_dataset",
            "batch_size": self.precompute_ref_batch_size or self.per_device_train_batch_size,
            **{
                n: getattr(self, n)
                for n in ("layout", "micro_batch_tokens", "on_bad_row", "token_cache_gb", "cache_dir")
            },
        }
        model = {"lora_r": 0 if full else config.model.lora_r, "compile": self.compile}
        training: dict[str, Any] = {"seed": self.seed, "grad_share_steps": self.grad_share_steps}
        if self.max_steps > 0 and self.precompute_ref_batch_size is None and self.data_seed is None:
            # The reference of other pairs than those of these steps need not be computed.
            training |= {"max_steps": self.max_steps, "gradient_accumulation": self.gradient_accumulation_steps}
        values = {"data": data, "model": model, "training": training}
        return replace(overlay(config, values, "InnerPOConfig"), method=self.method_config())
