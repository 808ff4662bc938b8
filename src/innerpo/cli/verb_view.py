"""The verb ``view``: a local server that shows runs while they train."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import arg

from innerpo.cli.console import say, stdout
from innerpo.cli.flags import parse
from innerpo.errors import UserError


@dataclass(frozen=True)
class ViewCommand:
    """Show the runs beneath a folder in the browser, live: progress, curves, tables, any of them compared.

    The server can be reached from this machine only, reads and never writes, and ends with Ctrl-C.
    """

    dir: Annotated[Path, tyro.conf.Positional, arg(metavar="DIR")]
    """Folder that holds runs, at any depth (outputs)."""
    port: int = 0
    """Port of 127.0.0.1; 0 = one that is free, which is printed."""
    open: bool = False
    """Open the page in the browser too."""


def view(args: list[str]) -> None:
    """Show the runs beneath a folder in the browser while they train: view outputs."""
    command = parse(ViewCommand, args, "innerpo view")
    if not command.dir.is_dir():
        raise UserError(f"there is no folder {command.dir}; give the one that holds runs, such as outputs")
    from innerpo.view.server import serve

    def ready(address: str) -> None:
        stdout.print(address, markup=False, soft_wrap=True)
        stdout.file.flush()
        say(f"showing the runs in {command.dir}; Ctrl-C ends it")
        if command.open:
            import webbrowser

            webbrowser.open(address)

    with suppress(KeyboardInterrupt):  # the way to end it, and no fault
        serve(command.dir, command.port, ready)
