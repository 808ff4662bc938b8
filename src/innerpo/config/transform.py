"""The section ``method.subspace``: options of the transform of hidden states."""

from dataclasses import dataclass
from typing import Literal

from innerpo.config.checks import check_finite
from innerpo.errors import UserError


@dataclass(frozen=True)
class TransformConfig:
    """Options of the transform that ``method.transform`` names. Each help text starts with the transforms it is for."""

    rank: float = 0.25
    """ether, ortho, hra, svd, random: dimensions kept, as a fraction of the hidden size (0 to 1) or a whole number."""
    supr_mode: Literal["null", "suppressed"] = "null"
    """supr: drop the directions that change logits most (null), or keep those along which blocks lower logits."""
    supr_k: float = 0.25
    """supr: directions dropped (null) or kept (suppressed), as a fraction of the hidden size or a whole number."""
    svd_end: Literal["top", "bottom"] = "top"
    """svd: keep the directions in which chosen and rejected states differ most (top) or least (bottom)."""
    reflections: int = 8
    """ether, hra: number of Householder reflections that are multiplied (block-diagonal ones in ether)."""
    ether_blocks: int = 4
    """ether: blocks on the diagonal of each reflection; must divide the hidden size."""
    fit_steps: int = 100
    """ether, ortho, hra: maximum Adam steps of the subspace fit; it stops early on held-back training prompts."""
    fit_lr: float = 0.02
    """ether, ortho, hra: learning rate of the subspace fit, roughly the rotation per step in radians."""

    def __post_init__(self) -> None:
        check_finite(self, "method.subspace")
        for name in ("rank", "supr_k"):
            value = getattr(self, name)
            if value <= 0 or (value >= 1 and not float(value).is_integer()):
                raise UserError(
                    f"method.subspace.{name} must be a fraction of the hidden size (0 < {name} < 1) or a whole number "
                    f"of directions, got {value:g}"
                )
        for name in ("reflections", "ether_blocks"):
            if getattr(self, name) < 1:
                raise UserError(f"method.subspace.{name} must be at least 1, got {getattr(self, name)}")
        if self.fit_steps < 0:
            raise UserError(f"method.subspace.fit_steps must not be negative, got {self.fit_steps}")
        if self.fit_lr <= 0:
            raise UserError(f"method.subspace.fit_lr must be above 0, got {self.fit_lr:g}")
