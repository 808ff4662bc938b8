"""What is put into the page besides text: scripts with their hashes, data as JSON, charts as SVG."""

import base64
import hashlib
import json
import math
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

_ROLES = re.compile(r' (?:role="graphics-[a-z]+"|aria-roledescription="[^"]*"|aria-hidden="true")')
"""What Vega says of each mark to a screen reader; the figure as a whole is described in its place."""

STATIC_WIDTH = 520
"""Width in pixels of a chart that fills its column, where no script fits it to the column."""


def asset(name: str) -> str:
    """Return the text of a file of the page (report.css, report.js, ...)."""
    return (resources.files("innerpo.evaluation.report") / "assets" / name).read_text(encoding="utf-8")


@cache
def vega_bundle() -> str:
    """Return Vega, Vega-Lite and vega-embed (with its tooltips and the expression interpreter) as one script."""
    import vl_convert

    script: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return "(() => {\n" + script.replace("\r", "") + "\n})();"  # its names stay its own


def script_hash(script: str) -> str:
    """Return what a Content-Security-Policy calls a script by: only scripts with such a hash are run."""
    if "</script" in script.lower() or "<!--" in script:
        raise ValueError("a script in the page would end before its end")
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def as_json(value: Any) -> str:
    """Return JSON that may stand in a script element: no ``<`` begins a tag or a comment there; NaN becomes null."""
    text = json.dumps(_plain(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def svg(spec: Mapping[str, Any]) -> str:
    """Return a chart as SVG, for paper and for pages without scripts. Its texts are escaped by the converter."""
    import vl_convert

    fixed = dict(spec)
    if fixed.get("width") == "container":
        fixed["width"] = STATIC_WIDTH
    drawn: str = vl_convert.vegalite_to_svg(fixed)
    return _ROLES.sub("", drawn)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
