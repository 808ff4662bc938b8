"""The server's answers: pages about the runs beneath a folder, their curves as JSON, scripts and styles."""

import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from innerpo.errors import UserError
from innerpo.evaluation.report.embed import as_json
from innerpo.view import pages
from innerpo.view.curves import FIRST, chart, chosen_by_default
from innerpo.view.folders import OutsideError
from innerpo.view.guard import HOSTS, Guard
from innerpo.view.paired import paired_table, report_html
from innerpo.view.runs import Run, Runs

log = logging.getLogger(__name__)

MOST_RUNS = 40
"""More runs than this are not compared at once: their page would be slow, and none is left out in silence."""
TYPES = {".css": "text/css", ".js": "text/javascript"}
Answer = Callable[[Request], Response]


def make_app(root: Path) -> Starlette:
    """Return the application (ASGI) that shows the runs beneath ``root``."""
    runs = Runs(root.resolve())
    routes = [
        Route("/", _list(runs)),
        Route("/runs/{path:path}", _run(runs)),
        Route("/compare", _compare(runs)),
        Route("/report", _report(runs)),
        Route("/chart.json", _chart(runs)),
        Route("/assets/{name}", _asset),
    ]
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=list(HOSTS), www_redirect=False)
    return Starlette(routes=routes, middleware=[Middleware(Guard), hosts])


def _list(runs: Runs) -> Answer:
    def answer(request: Request) -> Response:
        chosen = request.query_params.getlist("run")
        return _tagged(request, pages.list_page(str(runs.root), runs.all(), chosen), "text/html")

    return answer


def _run(runs: Runs) -> Answer:
    def answer(request: Request) -> Response:
        try:
            run = runs.one(request.path_params["path"])
        except OutsideError:
            return PlainTextResponse("there is no such run beneath the folder that is shown", 404)
        return _tagged(request, pages.run_page(str(runs.root), run), "text/html")

    return answer


def _compare(runs: Runs) -> Answer:
    def answer(request: Request) -> Response:
        found, missing = _asked_for(request, runs)
        if not found:
            return _none_found(missing)
        page = pages.compare_page(str(runs.root), found, missing, paired_table(found))
        return _tagged(request, page, "text/html")

    return answer


def _report(runs: Runs) -> Answer:
    def answer(request: Request) -> Response:
        found, missing = _asked_for(request, runs)
        if not found:
            return _none_found(missing)
        try:
            page = report_html(found)
        except UserError as error:
            return PlainTextResponse(f"there is no report of these runs yet: {error}", 404)
        except Exception as error:  # files that change while they are read may fail in any way
            log.warning(f"no report of {', '.join(run.name for run in found)}: {type(error).__name__}: {error}")
            return PlainTextResponse("these runs cannot be reported as they are now; try again later", 503)
        # The page is that of the verb report: it has its own policy inside, by the hashes of its scripts.
        return _tagged(request, page, "text/html", {"Content-Security-Policy": "frame-ancestors 'none'"})

    return answer


def _chart(runs: Runs) -> Answer:
    def answer(request: Request) -> Response:
        found, _ = _asked_for(request, runs)
        if not request.query_params.getlist("run"):
            found = chosen_by_default(runs.all())
        drawn = chart(found, request.query_params.get("key", FIRST[0]))
        return _tagged(request, as_json(drawn), "application/json")

    return answer


def _asset(request: Request) -> Response:
    name = request.path_params["name"]
    try:
        text = pages.asset(name)
    except KeyError:
        return PlainTextResponse("there is no such file", 404)
    return _tagged(request, text, TYPES[Path(name).suffix])


def _asked_for(request: Request, runs: Runs) -> tuple[list[Run], list[str]]:
    """The runs that an address names, each once, and the names at which there is none."""
    found, missing = [], []
    asked = list(dict.fromkeys(request.query_params.getlist("run")))
    if len(asked) > MOST_RUNS:
        raise HTTPException(400, f"{len(asked)} runs are ticked; at most {MOST_RUNS} are compared at once")
    for path in asked:
        try:
            found.append(runs.one(path))
        except OutsideError:
            missing.append(path)
    return found, missing


def _none_found(missing: Sequence[str]) -> Response:
    if missing:
        return PlainTextResponse("there is no such run beneath the folder that is shown", 404)
    return PlainTextResponse("tick runs in the list first", 404)


def _tagged(request: Request, text: str, kind: str, headers: dict[str, str] | None = None) -> Response:
    """Answer with an ETag; with 304 and nothing else where the browser has this already."""
    body = text.encode("utf-8", errors="replace")
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    known = [t.strip().removeprefix("W/") for t in request.headers.get("if-none-match", "").split(",")]
    found = {"ETag": tag, **(headers or {})}
    return Response(None, 304, found) if tag in known else Response(body, 200, found, media_type=kind)
