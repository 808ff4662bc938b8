"""From a study to the records of a page: every section that the data allow, in the order of the page."""

from collections.abc import Callable

from innerpo.evaluation.report.examples import examples
from innerpo.evaluation.report.generated import generations
from innerpo.evaluation.report.layers import layers_section
from innerpo.evaluation.report.overlap import overlap_section
from innerpo.evaluation.report.provenance import page_versions, run_records
from innerpo.evaluation.report.records import Page, Section
from innerpo.evaluation.report.results import BASE, MARKS, gains_section, headline_section, scorers_section
from innerpo.evaluation.report.strength import strength_section
from innerpo.evaluation.report.summary import answer, compared, title
from innerpo.evaluation.report.texts import read_texts
from innerpo.evaluation.report.theme import series_of
from innerpo.evaluation.report.trained import as_trained
from innerpo.evaluation.report.training_curves import training_section
from innerpo.evaluation.results import result_table
from innerpo.evaluation.study import Study
from innerpo.progress import track


def build_page(
    study: Study, texts: bool = True, out: str = "report.html", *, with_generations: bool | None = None
) -> Page:
    """Return the page about a study. ``out``: the name of the page's file.

    ``texts``: with texts of the data sets, which are loaded for it, and with what models wrote, unless
    ``with_generations`` says otherwise of these.
    """
    trained = as_trained(study)
    accuracy, gains = result_table(trained, "accuracy"), result_table(trained, "gain")
    series = series_of([*study.runs["method"].to_list(), *(row for row in gains.rows if row != BASE)])
    found = read_texts(study) if texts else None
    builders: tuple[Callable[[], Section | None], ...] = (
        lambda: headline_section(accuracy),
        lambda: gains_section(gains, series),
        lambda: strength_section(study, series),
        lambda: scorers_section(trained, series),
        lambda: layers_section(study, series),
        lambda: training_section(study, series),
        lambda: overlap_section(study, found),
    )
    sections = [section for build in track(builders, "sections of the report") if (section := build())]
    written = texts if with_generations is None else with_generations  # they hold prompts of the data
    generated, notes = generations(study) if written else ((), ())
    table = sections[0].tables[0]
    used = {mark for row in table.rows for cell in row for mark in cell.marks}
    used |= {mark for marks in table.column_marks for mark in marks}
    return Page(
        title=title(study),
        answer=answer(trained, gains),
        compared=compared(study),
        sections=sections,
        examples=examples(study, found),
        generated=generated,
        generated_notes=notes,
        runs=run_records(study),
        versions=page_versions(),
        marks={mark: what for mark, what in MARKS.items() if mark in used},
        out=out,
        texts=written,
    )
