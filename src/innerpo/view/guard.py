"""What is refused before a page is made: other methods, other hosts, other origins; and headers for every answer."""

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOSTS = ("127.0.0.1", "localhost")
"""Names of this server. A page elsewhere whose own name leads here (DNS rebinding) has another."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
"""Content-Security-Policy: nothing from elsewhere, no script in a page. Vega sets styles on the elements it draws."""

HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


class Guard:
    """ASGI middleware: answers only GET and HEAD, and nothing that another origin's page asks for.

    A browser names the origin of a request (Origin) and how it relates to the address (Sec-Fetch-Site): ``none`` is an
    address typed or opened by the person. Another port of this machine is another origin.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse or pass on one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refused = refusal(scope["method"], Headers(scope=scope))
        await (refused or self.app)(scope, receive, send_with_headers)


def refusal(method: str, headers: Headers) -> PlainTextResponse | None:
    """Return the answer to a request that is refused, else None."""
    if method not in ("GET", "HEAD"):
        return PlainTextResponse("this server only reads: GET or HEAD", 405, {"Allow": "GET, HEAD"})
    own = f"http://{headers.get('host', '')}"
    from_elsewhere = headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
    if from_elsewhere or headers.get("origin", own) != own:
        return PlainTextResponse("this page answers no other page; open its address in a tab of its own", 403)
    return None
