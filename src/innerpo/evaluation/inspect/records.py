"""What an inspection finds: one row per block."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class BlockRow:
    """One block. ``along`` is the margin and ``across`` the drift of this block alone; means over the test pairs.

    ``cosine`` is between policy and reference pooled states, over both responses. ``accuracy_train`` is the direction's
    leave-one-out accuracy on the training pairs; ``accuracy_before`` and ``_after`` are its accuracies on the test
    pairs, with the reference's and the policy's states. ``read``: whether the run's method reads this block.
    """

    block: int
    read: bool
    along: float
    across: float
    cosine: float
    accuracy_train: float
    accuracy_before: float
    accuracy_after: float


@dataclass(frozen=True)
class Inspection:
    """The rows, what they were measured on, and the folder they were written to."""

    folder: Path
    dataset: str
    n_train: int
    n_test: int
    pool: str
    rows: tuple[BlockRow, ...]

    @property
    def title(self) -> str:
        """The line above table and plot."""
        return (
            f"{self.folder.resolve().name}: policy against reference on {self.n_test} test pairs of "
            f"{self.dataset}, directions of {self.n_train} training pairs"
        )
