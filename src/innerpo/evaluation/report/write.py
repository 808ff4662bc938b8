"""The report of runs as one HTML file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from innerpo.errors import UserError
from innerpo.evaluation.report.build import build_page
from innerpo.evaluation.report.render import page_html
from innerpo.evaluation.study import Study, read_study
from innerpo.files import write_atomically


@dataclass(frozen=True)
class Report:
    """A page that was written, and one line for each folder that could not be read."""

    path: Path
    faults: tuple[str, ...] = ()


def report_runs(runs: str | Path | Sequence[str | Path], out: str | Path = "report.html", texts: bool = True) -> Report:
    """Write one HTML file about runs: folders or patterns, as ``study.read_study`` takes them.

    A folder that cannot be read is named in the page, and the others are shown. ``texts``: with the texts of single
    examples, read again from their data sets, and those that models wrote. Raises UserError where no run can be read
    or ``out`` is a folder.
    """
    path = Path(out)
    if path.is_dir():
        raise UserError(f"{path} is a folder; name the file to write, e.g. {path / 'report.html'}")
    study = read_study(runs, strict=False)
    write_report(study, path, texts)
    return Report(path, study.faults)


def write_report(study: Study, path: Path, texts: bool = True) -> None:
    """Write one HTML file about a study, which opens from disk and asks no network for anything."""
    page = page_html(build_page(study, texts, path.name))
    write_atomically(path, lambda p: p.write_text(page, encoding="utf-8", errors="replace"))
