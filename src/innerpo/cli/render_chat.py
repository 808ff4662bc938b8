"""Answers of base and policy for a terminal: two columns that grow, and plain lines for a pipe."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from innerpo.evaluation.chat import BASE, POLICY, SIDES, Answer


def as_columns(answers: Sequence[Answer], label: str) -> Table:
    """Return the answers side by side, with their log-probabilities beneath."""
    by_side = {answer.side: answer for answer in answers}
    table = _table(label)
    table.add_row(*(Text(by_side[side].text) for side in SIDES))
    table.add_row(*(Text("\n".join(_judged(by_side[side], label)), style="dim") for side in SIDES))
    return table


def as_lines(answers: Sequence[Answer], label: str) -> Iterator[str]:
    """Yield the answers as lines of plain text, each with its log-probabilities beneath."""
    for answer in answers:
        yield f"[{_name(answer.side, label)}] {answer.text}"
        yield from (f"  {line}" for line in _judged(answer, label))


@contextmanager
def live(console: Console, label: str) -> Iterator[Callable[[str, str], None]]:
    """Yield a function that shows the text of a side so far; what was shown vanishes at the end."""
    texts = dict.fromkeys(SIDES, "")
    with Live(console=console, transient=True, refresh_per_second=8) as display:

        def show(side: str, text: str) -> None:
            texts[side] = text
            table = _table(label)
            table.add_row(*(Text(texts[s]) for s in SIDES))
            display.update(table)

        yield show


def _table(label: str) -> Table:
    table = Table(expand=True, show_lines=True)
    for side in SIDES:
        table.add_column(_name(side, label), ratio=1, overflow="fold")
    return table


def _name(side: str, label: str) -> str:
    return BASE if side == BASE else label


def _judged(answer: Answer, label: str) -> list[str]:
    """A line for each model: the answer's log-probability under it, summed and per token."""
    lines = []
    for side in (BASE, POLICY):
        total, each = answer.by(side)
        lines.append(f"log p under {_name(side, label)}: {total:.2f} nats, {each:.3f} a token")
    how = "" if answer.ended else ", not ended"
    return [*lines, f"{answer.tokens} tokens{how}"]
