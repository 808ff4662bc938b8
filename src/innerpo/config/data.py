"""The section ``data`` of a run: which pairs, and how they become tokens and batches."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from innerpo.config.identity import BOTH, NOTHING
from innerpo.errors import UserError


@dataclass(frozen=True)
class DataConfig:
    """Which pairs, and how they become tokens and batches."""

    dataset: str = field(default="math", metadata=BOTH)
    """GENIES name (math), ethics:justice, embedded:NAME, a Hub data set (owner/name), or a local file."""
    genies_dir: Path | None = field(default=None, metadata=NOTHING)
    """Folder with GENIES data; else INNERPO_GENIES_DIR; else the Hub's wassname/genies_preferences."""
    ethics_dir: Path | None = field(default=None, metadata=NOTHING)
    """Folder with ETHICS CSVs; else INNERPO_ETHICS_DIR; else `ethics` beside the GENIES folder; else the Hub."""
    batch_size: int = 8
    """Pairs per step on each device (before accumulation)."""
    max_prompt_tokens: int = field(default=512, metadata=BOTH)
    """Longer prompts are cut on the left."""
    max_response_tokens: int = field(default=512, metadata=BOTH)
    """Longer responses are cut on the right and then have no EOS; at least one token is kept."""
    negatives: Literal["one", "all"] = "one"
    """Rejected responses per prompt in training: one (seeded choice) or all. Scoring always uses all."""
    max_train_prompts: int = field(default=0, metadata=BOTH)
    """Train on this many randomly chosen prompts; 0 = all."""
    shuffled_labels: float = 0.0
    """Swap chosen and rejected in training with this probability (control: 0.5 leaves no signal)."""
    shuffled_prompts: bool = False
    """Train on the same pairs behind other pairs' prompts, a seeded choice (control: only the responses speak)."""
    on_bad_row: Literal["error", "skip"] = field(default="error", metadata=BOTH)
    """A row that cannot be used: stop, or leave it out and log how many were."""
    layout: Literal["auto", "one_row", "packed", "concatenated"] = field(default="auto", metadata=NOTHING)
    """One row per prompt (with its responses), one row for all, or one row per response; auto = checks one batch."""
    micro_batch_tokens: int = field(default=0, metadata=NOTHING)
    """Most padded tokens in a micro-batch; a larger batch is split into several, with the same gradients. 0 = auto."""
    seed: int = field(default=0, metadata=BOTH)
    """Seed of the choice of negatives and prompts. Not the training seed: seeds share their pairs and cache."""
    token_cache_gb: float = field(default=4.0, metadata=NOTHING)
    """Largest file of reference token states (for drift); above it the reference is computed at every step."""
    trunk_cache_gb: float = field(default=8.0, metadata=NOTHING)
    """Most disk for the states that enter the first adapted block (model.adapt_layers); 0 = keep none."""
    cache_dir: Path | None = field(default=None, metadata=NOTHING)
    """Where reference outputs and converted models are kept; else INNERPO_CACHE; else ~/.cache/innerpo."""

    def __post_init__(self) -> None:
        for name in ("seed", "max_train_prompts", "micro_batch_tokens", "trunk_cache_gb"):
            if not getattr(self, name) >= 0:
                raise UserError(f"data.{name} must not be negative, got {getattr(self, name)}")
        for name in ("batch_size", "max_prompt_tokens", "max_response_tokens"):
            if getattr(self, name) < 1:
                raise UserError(f"data.{name} must be at least 1, got {getattr(self, name)}")
        if not 0.0 <= self.shuffled_labels <= 1.0:
            raise UserError(f"data.shuffled_labels must lie between 0 and 1, got {self.shuffled_labels}")
