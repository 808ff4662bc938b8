"""The section ``eval`` of a run: what is scored, and how."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from innerpo.config.checks import check_finite
from innerpo.config.identity import NOTHING
from innerpo.config.method import default_method
from innerpo.errors import UserError


@dataclass(frozen=True)
class EvalConfig:
    """What is scored: the evaluation sets, at which strengths of the adapter, and how."""

    suite: str = "headline"
    """Evaluation sets beside train and test: headline (oos, rnd), genies, genies-all, embedded, or a TOML file."""
    sets: tuple[str, ...] = ()
    """Score only these sets of the suite (train, test, oos, ...), and further data sets by their names; () = all."""
    strengths: tuple[float, ...] = field(default=(1.0,), metadata=NOTHING)
    """Factors on the adapter's update, each scored: 0 is the base, 1 the adapter as trained."""
    strength_sets: tuple[str, ...] = field(default=(), metadata=NOTHING)
    """Sets scored at every strength (test, oos); the others are then scored at 1 alone, which saves time. () = all."""
    negatives: Literal["all", "one"] = "all"
    """Worse responses scored per prompt: all, or one (the same for all models; half the work on sets of four)."""
    train_dataset: str | None = None
    """Data set of the sets train and test; else the one the run was trained on."""
    oos_dataset: str | None = None
    """Out-of-distribution set; else the first shift listed for the training set (the verb data shows them)."""
    rnd_dataset: str | None = None
    """Unrelated control set; else one listed for the source, ethics:justice, or embedded:control for embedded data."""
    ref_model: str | None = None
    """Another base model to score on the same sets, in a row of its own; the adapter stays on its own base."""
    max_prompts: int = 250
    """Prompts scored per set, a fixed random choice; 0 = all."""
    batch_size: int = field(default=16, metadata=NOTHING)
    """Prompts per forward pass, each with all its responses."""
    format: Literal["parquet", "jsonl"] = field(default="parquet", metadata=NOTHING)
    """File format of the score rows."""
    steer: float = 0.0
    """Also score the base steered along the run's directions by this many standard deviations, in a row of its own."""
    capability: str = field(default="", metadata=NOTHING)
    """Method (dpo, say) to train on each target itself, once: the target-tuned capability that elicitation needs."""
    skip: bool = field(default=False, metadata=NOTHING)
    """Train only: do not score afterwards."""

    def at_every_strength(self, known: Sequence[str]) -> tuple[str, ...]:
        """Return those of some sets that are scored at every strength: all where ``strength_sets`` names none."""
        return tuple(name for name in known if name in self.strength_sets) or tuple(known)

    def __post_init__(self) -> None:
        check_finite(self, "eval")
        if self.capability:
            default_method(self.capability)
        if not self.strengths:
            raise UserError("eval.strengths must be at least one number; 1 is the adapter as trained")
        if self.max_prompts < 0:
            raise UserError(f"eval.max_prompts must not be negative, got {self.max_prompts}")
        if self.batch_size < 1:
            raise UserError(f"eval.batch_size must be at least 1, got {self.batch_size}")
