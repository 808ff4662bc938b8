"""Run the server on this machine's own address until it is interrupted."""

import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from innerpo.errors import UserError

ADDRESS = "127.0.0.1"
"""Never another: other machines cannot reach it."""


def serve(root: Path, port: int, ready: Callable[[str], None]) -> None:
    """Serve the pages about the runs beneath ``root`` until Ctrl-C. Port 0: one that is free.

    ``ready`` is called with the address once a browser can be sent there. Raises UserError where the port cannot be
    had, and KeyboardInterrupt at the end.
    """
    import uvicorn

    from innerpo.view.app import make_app

    with closing(bind(port)) as listening:
        config = uvicorn.Config(
            make_app(root),
            log_level="warning",
            access_log=False,
            server_header=False,
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
        ready(f"http://{ADDRESS}:{listening.getsockname()[1]}/")
        uvicorn.Server(config).run(sockets=[listening])


def bind(port: int) -> socket.socket:
    """Return a socket on this machine's own address. Raises UserError where the port cannot be had."""
    if not 0 <= port < 2**16:
        raise UserError(f"port must lie between 0 and 65535 (0: one that is free), got {port}")
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((ADDRESS, port))
        found.listen()  # from here on who connects waits, and is not refused
    except OSError as error:
        found.close()
        raise UserError(f"cannot listen on port {port} of {ADDRESS}: {error.strerror}; take port 0 for any") from error
    return found
