"""From records to HTML. The templates escape every text; scripts and data come by ``embed``."""

import shlex
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from innerpo.evaluation.report.embed import as_json, asset, script_hash, svg, vega_bundle
from innerpo.evaluation.report.records import Examples, Page, Section, Table
from innerpo.evaluation.report.theme import SHAPES

SCRIPTS = ("theme", "vega", "report", "examples")


def page_html(page: Page) -> str:
    """Return the whole page: one file with style, scripts and data inside, which asks no network for anything."""
    scripts = {name: vega_bundle() if name == "vega" else asset(f"{name}.js") for name in SCRIPTS}
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            page=page,
            examples=page.examples,
            example_data={} if page.examples is None else example_data(page.examples),
            policy=content_policy(*scripts.values()),
            style=Markup(asset("report.css")),
            scripts={name: Markup(script) for name, script in scripts.items()},
        )
    )


def section_html(section: Section) -> str:
    """Return one section, as the page has it. The script's ``innerpoReport.enhance(element)`` makes it live."""
    return str(_parts().section(section))


def table_html(table: Table) -> str:
    """Return one table, as the page has it."""
    return str(_parts().table(table))


def content_policy(*scripts: str, connect: str = "'none'") -> str:
    """Return a Content-Security-Policy under which these scripts run, no other, and nothing is fetched.

    Vega sets styles on the elements it draws, so styles in the page are allowed. ``connect``: with what it may speak.
    """
    hashes = " ".join(f"'{script_hash(script)}'" for script in scripts)
    rules = {"default-src": "'none'", "script-src": hashes, "style-src": "'unsafe-inline'", "img-src": "data:"}
    rules |= {"connect-src": connect, "base-uri": "'none'", "form-action": "'none'"}
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def example_data(examples: Examples) -> dict[str, Any]:
    """Return what the page's script reads."""
    return {"sets": examples.sets, "runs": examples.runs, "texts": examples.texts, "rows": examples.rows}


@cache
def environment() -> Environment:
    """Jinja with autoescape, the page's templates, and the functions that they call."""
    found = Environment(
        loader=PackageLoader("innerpo.evaluation.report", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["quote"] = shlex.quote
    found.globals |= {
        "shapes": SHAPES,
        "as_json": lambda value: Markup(as_json(value)),
        "svg": lambda spec: Markup(svg(spec)),
    }
    return found


def _parts() -> Any:
    return environment().get_template("parts.html.j2").module
