"""Tab completion: one parser of all verbs and methods, from which tyro writes a script for a shell."""

from collections.abc import Callable, Sequence
from functools import reduce
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import arg, subcommand

from innerpo.cli.commands import (
    DataCommand,
    DemoCommand,
    DoctorCommand,
    EvalCommand,
    ExamplesCommand,
    ExportCommand,
    InspectCommand,
    TrainCommand,
    TuneCommand,
)
from innerpo.cli.verb_bridge import BridgeExportCommand, BridgeImportCommand
from innerpo.cli.verb_chat import ChatCommand
from innerpo.cli.verb_combine import CombineCommand
from innerpo.cli.verb_compare import CompareCommand
from innerpo.cli.verb_generate import GenerateCommand
from innerpo.cli.verb_merge import MergeCommand
from innerpo.cli.verb_push import PushCommand
from innerpo.cli.verb_report import ReportCommand
from innerpo.cli.verb_sweep import SweepCommand
from innerpo.cli.verb_table import TableCommand
from innerpo.cli.verb_view import ViewCommand
from innerpo.config.method import method_names
from innerpo.errors import UserError
from innerpo.files import machine_errors
from innerpo.registry import METHODS

WRITE = "--tyro-write-completion"
SHELLS = ("bash", "zsh", "tcsh", "fish")


def write_completion(words: Sequence[str]) -> None:
    """Print the completion script of a shell, or write it to a file (``--tyro-write-completion SHELL FILE``)."""
    if len(words) < 2 or words[1] not in SHELLS:
        raise UserError(f"{words[0]} needs a shell: {', '.join(SHELLS)}")
    if words[0] == WRITE:
        if len(words) < 3:
            raise UserError(f"{words[0]} needs a shell and the file to write")
        with machine_errors(Path(words[2])):
            Path(words[2]).parent.mkdir(parents=True, exist_ok=True)
    verbs: dict[str, Callable[..., Any]] = {
        "train": _with_methods(TrainCommand),
        "eval": EvalCommand,
        "data": DataCommand,
        "demo": DemoCommand,
        "doctor": _with_methods(DoctorCommand),
        "inspect": InspectCommand,
        "sweep": SweepCommand,
        "tune": _with_methods(TuneCommand),
        "combine": CombineCommand,
        "compare": CompareCommand,
        "table": TableCommand,
        "report": ReportCommand,
        "view": ViewCommand,
        "export": ExportCommand,
        "generate": GenerateCommand,
        "chat": ChatCommand,
        "merge": MergeCommand,
        "push": PushCommand,
        "bridge": _one_of({"export": BridgeExportCommand, "import": BridgeImportCommand}),
        "examples": ExamplesCommand,
    }
    tyro.extras.subcommand_cli_from_dict(verbs, prog="innerpo", args=list(words), use_underscores=True)


def _with_methods(record: type) -> Callable[..., None]:
    """Return a function whose one parameter is the record under the name of any method of the table.

    Of the names with a transform only innerpo's are there: the script holds every option once for each name.
    """
    names = [name for name in method_names() if name in METHODS or name.startswith("innerpo-")]
    return _one_of(dict.fromkeys(names, record))


def _one_of(records: dict[str, type]) -> Callable[..., None]:
    """Return a function whose one parameter is any of some records, each under its name."""
    kinds = [Annotated[record, subcommand(name, prefix_name=False)] for name, record in records.items()]

    def verb(command: Any) -> None: ...

    verb.__annotations__["command"] = Annotated[reduce(lambda a, b: a | b, kinds), arg(name="")]
    return verb
