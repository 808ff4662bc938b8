"""Hooks of `mkdocs build`: pages of the repository's root become pages of the site, links between pages are adapted.

README.md, CONTRIBUTING.md, CHANGELOG.md and LOG.md are read from the root. A link to any other file of the repository
(source code) becomes text, because the site does not contain it.
"""

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "readme.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "LOG.md": "log.md",
}
"""Pages of the root, and their names in the site (README.md would take the place of index.md)."""

_LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of the repository's root."""
    for source, target in PAGES.items():
        files.append(File.generated(config, target, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Adapt the links of a page to the site."""
    source = {target: name for name, target in PAGES.items()}.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    return adapted(markdown, source)


def adapted(markdown: str, source: str) -> str:
    """Return the text of a page, given its path in the repository, with links that lead to pages of the site."""

    def adapt(link: re.Match[str]) -> str:
        text, target = link[1], link[2]
        if re.match(r"[a-z]+:|#", target):
            return link[0]
        path, _, anchor = target.partition("#")
        there = Path(os.path.normpath(Path(source).parent / path)).as_posix()
        page = PAGES.get(there) or (there.removeprefix("docs/") if there.startswith("docs/") else None)
        if page is None:
            return text if text.startswith("`") else f"{text} (`{there}`)" if text != there else f"`{there}`"
        return f"[{text}]({page}{'#' + anchor if anchor else ''})"

    return _LINK.sub(adapt, markdown)
