"""The section ``model`` of a run: the base model and its adapter."""

from dataclasses import dataclass, field
from typing import Literal

from innerpo.config.checks import check_finite
from innerpo.config.identity import BOTH, NOTHING
from innerpo.errors import UserError

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class ModelConfig:
    """The base model and its adapter."""

    base_model: str = field(default="smollm2-135m", metadata=BOTH)
    """A Hub name, a local folder, or smollm2-135m (the embedded SmolLM2-135M-Instruct)."""
    revision: str | None = field(default=None, metadata=BOTH)
    """Hub revision of the base model."""
    lora_r: int = 16
    """Rank of the LoRA adapter; 0 = full fine-tuning."""
    lora_alpha: float = 32.0
    """LoRA scale: updates are multiplied by lora_alpha / lora_r."""
    lora_dropout: float = 0.0
    """Dropout on the adapter's input, drawn for each micro-batch, so that their size matters; other dropout is off."""
    target_modules: str = "all-linear"
    """Modules that get an adapter: all-linear, or names separated by commas (q_proj,v_proj)."""
    adapt_layers: str = "all"
    """Blocks with an adapter: all, or as method.layers (range(15,30)); what lies before the first is run only once."""
    dtype: Dtype = field(default="auto", metadata=BOTH)
    """Type of the base weights; auto = bfloat16 where the hardware multiplies it natively, else float32."""
    attention: Literal["auto", "sdpa", "eager", "flex_attention"] = field(default="auto", metadata=NOTHING)
    """Attention implementation; auto = by hardware and type (logged). flex_attention (CUDA) packs rows."""
    compile: Literal["auto", "on", "off"] = field(default="auto", metadata=NOTHING)
    """Compile decoder blocks for training (torch.compile); auto = where the run is long enough to be worth it."""
    threads: int = field(default=0, metadata=NOTHING)
    """CPU threads; 0 = torch's choice, but no more than the container may use."""
    load_in_4bit: bool = field(default=False, metadata=BOTH)
    """Load the base weights in 4 bits (needs bitsandbytes and a CUDA device)."""
    trust_remote_code: bool = field(default=False, metadata=BOTH)
    """Run the code that comes with the model. Leave it off unless you have read that code."""

    def __post_init__(self) -> None:
        check_finite(self, "model")
        if self.lora_r < 0:
            raise UserError(f"model.lora_r must be 0 (full fine-tuning) or more, got {self.lora_r}")
        if not 0.0 <= self.lora_dropout < 1.0:
            raise UserError(f"model.lora_dropout must be at least 0 and below 1, got {self.lora_dropout}")
        if self.lora_r == 0 and self.dtype == "float16":
            raise UserError(
                "model.lora_r=0 trains every weight, and float16 cannot hold their updates and optimiser states; use "
                "model.dtype=bfloat16 or float32"
            )
        if self.lora_r == 0 and self.adapt_layers != "all":
            raise UserError(
                f"model.adapt_layers={self.adapt_layers!r} chooses blocks for an adapter; model.lora_r=0 has none and "
                "trains every weight"
            )
        if self.threads < 0:
            raise UserError(f"model.threads must not be negative, got {self.threads}")
