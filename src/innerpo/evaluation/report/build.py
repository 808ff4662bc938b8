"""From a study to the records of a page: every section that the data allow, in the order of the page."""

from collections.abc import Callable

from innerpo.evaluation.report.examples import examples
from innerpo.evaluation.report.generated import generations
from innerpo.evaluation.report.layers import layers_section
from innerpo.evaluation.report.provenance import page_versions, run_records
from innerpo.evaluation.report.records import Page, Section, Series
from innerpo.evaluation.report.texts import read_texts
from innerpo.evaluation.report.theme import series_of
from innerpo.evaluation.report.training_curves import training_section
from innerpo.evaluation.study import Study
from innerpo.progress import track

Builder = Callable[[Study, tuple[Series, ...]], Section | None]
"""A section of the page; None where the study holds nothing for it."""

SECTIONS: tuple[Builder, ...] = (layers_section, training_section)


def build_page(study: Study, texts: bool = True, out: str = "report.html") -> Page:
    """Return the page about a study. ``texts``: with the texts of examples; ``out``: the name of the page's file."""
    series = series_of(study.runs["method"].to_list())
    found = read_texts(study) if texts else None
    sections = [section for build in track(SECTIONS, "sections of the report") if (section := build(study, series))]
    generated, notes = generations(study)
    return Page(
        title="x",
        answer="y",
        compared=(),
        sections=sections,
        examples=examples(study, found),
        generated=generated,
        generated_notes=notes,
        runs=run_records(study),
        versions=page_versions(),
        out=out,
    )
