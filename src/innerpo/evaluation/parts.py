"""Facts on disk, part by part: one policy at one strength on one split of a data set.

Scoring that was interrupted goes on where it stopped, and a run that is scored again on other sets or at other
strengths computes only what is new. A part's place is made of everything that its numbers depend on, so that a changed
adapter, base, tokenizer or data set finds nothing.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from innerpo.errors import first_line
from innerpo.files import write_atomically

log = logging.getLogger(__name__)

FOLDER = "scored"


@dataclass(frozen=True)
class Parts:
    """The parts of one policy: ``folder`` lies in the run's folder, ``policy`` identifies weights and environment."""

    folder: Path
    policy: str

    def get(self, split: str, strength: float, compute: Callable[[], pl.DataFrame]) -> pl.DataFrame:
        """Return a part's rows from disk, or compute and keep them. ``split`` identifies the split's tokens."""
        path = self._path(split, strength)
        if path.is_file():
            try:
                return pl.read_parquet(path)
            except (pl.exceptions.PolarsError, OSError) as error:
                log.info(f"{path} cannot be read ({first_line(error)}); scored again")
        rows = compute()
        write_atomically(path, rows.write_parquet)
        return rows

    def has(self, split: str, strength: float) -> bool:
        """Whether a part is there."""
        return self._path(split, strength).is_file()

    def strengths(self, splits: list[str]) -> list[float]:
        """Return the strengths at which every one of some splits is there, in rising order."""
        found = [{float(p.stem) for p in (self.folder / FOLDER / self.policy / s).glob("*.parquet")} for s in splits]
        return sorted(set.intersection(*found)) if found else []

    def _path(self, split: str, strength: float) -> Path:
        return self.folder / FOLDER / self.policy / split / f"{strength!r}.parquet"
