"""The report of runs as one HTML file."""

from pathlib import Path

from innerpo.errors import UserError
from innerpo.evaluation.report.build import build_page
from innerpo.evaluation.report.render import page_html
from innerpo.evaluation.study import Study
from innerpo.files import write_atomically


def write_report(study: Study, out: str | Path = "report.html", texts: bool = True) -> Path:
    """Write one HTML file about a study, which opens from disk and asks no network for anything; return its path.

    Folders that the study could not read are named in the page. ``texts``: with the texts of single examples, read
    again from their data sets. Raises UserError where ``out`` is a folder.
    """
    path = Path(out)
    if path.is_dir():
        raise UserError(f"{path} is a folder; name the file to write, e.g. {path / 'report.html'}")
    page = page_html(build_page(study, texts, path.name))
    write_atomically(path, lambda p: p.write_text(page, encoding="utf-8", errors="replace"))
    return path
