"""Two runs compared on the same prompts, and the report of runs, from files that may change meanwhile."""

import logging
from collections.abc import Sequence
from functools import lru_cache
from threading import Thread
from typing import Any

from innerpo.errors import UserError
from innerpo.evaluation.report.cells import interval, number, text
from innerpo.evaluation.report.records import Cell, Table
from innerpo.view.runs import Run

log = logging.getLogger(__name__)

Key = tuple[tuple[str, float], ...]
"""Folders of runs and when their files last changed: what is made of them is made again where one did."""


def paired_table(runs: Sequence[Run]) -> Table | str:
    """Return the paired comparison of two runs, or why there is none; "" where there are not two scored runs."""
    if len(runs) != 2 or not all(run.scored for run in runs):
        return ""
    return _begun(_key(runs)).value_soon()


class _Later:
    """A comparison that is computed in a thread of its own: a page does not wait for it, the next look has it."""

    def __init__(self, key: Key) -> None:
        self.value: Table | str = "it is being computed"
        self.thread = Thread(target=self._compute, args=(key,), daemon=True)
        self.thread.start()

    def value_soon(self) -> Table | str:
        """The comparison where it takes less than half a second, or was begun before; else that it is coming."""
        self.thread.join(0.5)
        return self.value

    def _compute(self, key: Key) -> None:
        self.value = _paired(key)


@lru_cache(maxsize=16)
def _begun(key: Key) -> _Later:
    return _Later(key)


def report_html(runs: Sequence[Run]) -> str:
    """Return the report of runs as HTML, without the texts of examples. Raises UserError where none has scores."""
    return _report(_key(runs))


def _key(runs: Sequence[Run]) -> Key:
    return tuple((str(run.folder), run.changed) for run in runs)


def _paired(key: Key) -> Table | str:
    from innerpo.evaluation.comparison import compare_studies
    from innerpo.evaluation.study import read_study

    try:
        one, other = (read_study(folder) for folder, _ in key)
        found = compare_studies(one, other)
    except UserError as error:
        return str(error)
    except Exception as error:  # files that change while they are read may fail in any way
        log.warning(f"{' and '.join(folder for folder, _ in key)} cannot be compared: {type(error).__name__}: {error}")
        return "the scores of these runs cannot be compared as they are now"
    rows = tuple(
        (
            text(d.column.name),
            _estimate(d.a),
            _estimate(d.b),
            _estimate(d.difference, signed=True),
            number(d.p_holm),
            text(found.verdict(d)),
        )
        for d in found.differences
    )
    columns = ("set", found.a, found.b, "difference", "p (Holm)", "found")
    return Table(f"{found.a} less {found.b}, paired by prompt: accuracy by {found.scorer}", columns, rows, found.notes)


def _estimate(e: Any, signed: bool = False) -> Cell:
    return interval(e.mean, e.low, e.high, signed=signed)


@lru_cache(maxsize=4)
def _report(key: Key) -> str:
    from innerpo.evaluation.report.build import build_page
    from innerpo.evaluation.report.render import page_html
    from innerpo.evaluation.study import read_study

    return page_html(
        build_page(read_study([folder for folder, _ in key], strict=False), texts=False, with_generations=True)
    )
