"""What a page consists of, as records without HTML: cells, tables, figures, sections. The templates render them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, the number that its column is sorted by (None: the text), its marks, bold or not."""

    text: str
    value: float | None = None
    marks: tuple[str, ...] = ()
    best: bool = False


@dataclass(frozen=True)
class Table:
    """A table with a caption above and notes beneath it. The first column names the row."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    column_marks: tuple[tuple[str, ...], ...] = ()
    """Marks of each column, where any has some."""

    def narrow(self, corner: str) -> "Table":
        """Return the table with rows and columns changed over where it has more columns than rows; else itself.

        Rows fit a telephone and paper where columns do not. ``corner`` is the heading of the first column then.
        """
        if len(self.columns) - 1 <= len(self.rows):
            return self
        marks = self.column_marks or ((),) * len(self.columns)
        rows = tuple(
            (Cell(name, None, marks[i]), *(row[i] for row in self.rows))
            for i, name in enumerate(self.columns[1:], start=1)
        )
        own = tuple(row[0].marks for row in self.rows)
        return Table(self.caption, (corner, *(row[0].text for row in self.rows)), rows, self.notes, ((), *own))

    @property
    def numeric(self) -> tuple[bool, ...]:
        """Whether each column holds numbers only, and is set flush right."""
        count = len(self.columns)
        return tuple(bool(self.rows) and all(row[i].value is not None for row in self.rows) for i in range(count))


@dataclass(frozen=True)
class Series:
    """One entry of a legend: the label with its colour and the name of its shape (report/theme.py)."""

    label: str
    colour: str
    shape: str


@dataclass(frozen=True)
class Figure:
    """A chart with the table of its data.

    ``spec`` is a Vega-Lite specification; ``description`` says in words what the chart shows, for those who do not see
    it; ``caption`` says how to read it and what its intervals cover.
    """

    name: str
    title: str
    caption: str
    description: str
    spec: Mapping[str, Any]
    table: Table | None = None


@dataclass(frozen=True)
class Section:
    """A part of the page: paragraphs, tables, and figures that share one legend. ``name`` is its anchor."""

    name: str
    title: str
    text: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    legend: tuple[Series, ...] = ()
    data: Table | None = None
    """The data of all figures together, where they have no table each."""


@dataclass(frozen=True)
class Examples:
    """Single examples as the page's script reads them.

    ``texts`` are (prompt, chosen, rejected), cut; ``rows`` hold set, run, text (indices), pair id, margin of the base,
    margin of the policy, and 1, 0 or -1 for a pair that was gained, stayed or was lost. ``flips`` counts these over all
    pairs. ``notes`` say what was left out.
    """

    sets: tuple[str, ...]
    runs: tuple[str, ...]
    texts: tuple[tuple[str, str, str] | None, ...]
    rows: tuple[tuple[Any, ...], ...]
    flips: Table
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Generated:
    """The answers of several models to one prompt: (label, text, a line about it)."""

    set: str
    prompt: str
    answers: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class RunRecord:
    """What a reader needs to trust or repeat one run."""

    name: str
    folder: str
    scores: str
    """The folder that holds its scores: the run's own, or one beneath it."""
    method: str
    """The word that trains it; empty for an adapter made elsewhere."""
    facts: tuple[tuple[str, str], ...]
    config: str
    """The run's config.yaml as text; empty where there is none."""


@dataclass(frozen=True)
class Page:
    """A whole report. ``answer`` is the headline result in one sentence; ``compared`` are terms and what they are."""

    title: str
    answer: str
    compared: tuple[tuple[str, str], ...]
    sections: Sequence[Section]
    examples: Examples | None = None
    generated: tuple[Generated, ...] = ()
    generated_notes: tuple[str, ...] = ()
    runs: tuple[RunRecord, ...] = ()
    versions: tuple[tuple[str, str], ...] = ()
    marks: Mapping[str, str] = field(default_factory=dict)
    """What each mark in a table means."""
    out: str = "report.html"
    texts: bool = True
    """Whether texts of data or models are shown."""
