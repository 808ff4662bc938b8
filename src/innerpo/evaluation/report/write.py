"""The report of runs as one HTML file."""

from collections.abc import Sequence
from pathlib import Path

from innerpo.errors import UserError
from innerpo.evaluation.report.build import build_page
from innerpo.evaluation.report.render import page_html
from innerpo.evaluation.study import read_study
from innerpo.files import write_atomically


def write_report(runs: Sequence[str | Path], out: str | Path = "report.html", texts: bool = True) -> Path:
    """Write one HTML file about runs, which opens from disk and asks no network for anything; return its path.

    ``runs`` are folders or patterns, as ``study.read_study`` takes them. A folder that cannot be read is named in the
    page and the others are shown. ``texts``: with the texts of single examples, read again from their data sets.

    Raises UserError where no run can be read or ``out`` is a folder.
    """
    path = Path(out)
    if path.is_dir():
        raise UserError(f"{path} is a folder; name the file to write, e.g. {path / 'report.html'}")
    page = page_html(build_page(read_study(runs, strict=False), texts=texts, out=path.name))
    write_atomically(path, lambda p: p.write_text(page, encoding="utf-8", errors="replace"))
    return path
