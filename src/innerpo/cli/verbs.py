"""The verbs of the command line. Nothing heavy is imported before the options have been read."""

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from innerpo import __version__
from innerpo.cli.commands import (
    EXAMPLES,
    DataCommand,
    DemoCommand,
    DoctorCommand,
    EvalCommand,
    ExamplesCommand,
    ExportAdapterCommand,
    ExportCommand,
    InspectCommand,
    TrainCommand,
)
from innerpo.cli.console import error_line, listening, say, stdout
from innerpo.cli.flags import (
    about_method,
    command_on_folder,
    parse,
    peek,
    read_method,
    show_choices,
    with_files,
)
from innerpo.cli.options import unknown
from innerpo.cli.verb_bridge import bridge
from innerpo.cli.verb_chat import chat
from innerpo.cli.verb_combine import combine
from innerpo.cli.verb_compare import compare
from innerpo.cli.verb_generate import generate
from innerpo.cli.verb_merge import merge
from innerpo.cli.verb_push import push
from innerpo.cli.verb_report import report
from innerpo.cli.verb_sweep import sweep
from innerpo.cli.verb_table import table
from innerpo.cli.verb_tune import tune
from innerpo.cli.verb_view import view
from innerpo.config.run import default_run
from innerpo.config.yaml import trusted_config
from innerpo.errors import MachineError, UserError, is_out_of_memory
from innerpo.files import existing_folder


def train(args: list[str]) -> None:
    """Train a method and score it: train dpo, train innerpo --method.transform=none (or: train innerpo-none)."""
    label = read_method(args, "innerpo train", train.__doc__)
    config, rest = default_run(label), args[1:]
    name, config = config.method.name, with_files(config, rest, label)
    command = parse(TrainCommand, rest, f"innerpo train {label}", TrainCommand(run=config), about_method(label))
    if command.run.method.name != name:
        raise UserError(f"the config is of the method {command.run.method.name!r}, the command is train {name}")
    if command.dry_run:
        from innerpo.cli.render_plan import as_rich
        from innerpo.plan import plan_run

        stdout.print(as_rich(plan_run(command.run)), soft_wrap=True)
        return
    from innerpo.capability import with_capability
    from innerpo.run import train as run_training

    result = with_capability(run_training(command.run))
    _show(result)


def evaluate(args: list[str]) -> None:
    """Score saved runs, or any peft adapters, beside their base models: eval outputs/dpo_math_seed1."""
    from itertools import takewhile

    runs = list(takewhile(lambda word: not word.startswith("-"), args))
    options, faults, bases = args[len(runs) :], list[str](), None
    for words in [[run, *options] for run in runs] if len(runs) > 1 else [args]:
        try:
            command, config = command_on_folder(EvalCommand, words, "innerpo eval")
            from innerpo.capability import with_capability
            from innerpo.experiments.worker import Bases
            from innerpo.run import evaluate as run_evaluation

            bases = bases or Bases()  # runs on one base model share it, whatever their adapters
            base = bases.of(config) if len(runs) > 1 or config.eval.capability else None
            result = run_evaluation(command.run, config, base)
            with_capability(result, base)
        except UserError as error:
            if len(runs) <= 1:
                raise
            faults.append(f"{words[0]} not scored: {error}")
            continue
        _show(result)
        faults += result.faults
    for fault in faults[:-1]:
        error_line(fault)
    if faults:
        raise UserError(faults[-1])


def inspect(args: list[str]) -> None:
    """Show what a run's adapter changed in each block: inspect outputs/dpo_math_seed1."""
    command, config = command_on_folder(InspectCommand, args, "innerpo inspect")
    from innerpo.cli.render_scores import inspection_table
    from innerpo.evaluation.inspect.run import inspect_run

    stdout.print(inspection_table(inspect_run(command.run, config, command.prompts)))


def export(args: list[str]) -> None:
    """Write a run's directions as a steering vector, or its adapter (--to=gguf): export RUN --format=gguf."""
    if peek(args, "to") is not None:
        _export_adapter(args)
        return
    command = parse(ExportCommand, args, "innerpo export")
    config = trusted_config(existing_folder(command.run), command.trust_remote_code)
    from innerpo.evaluation.export import export_run

    say(f"written to {export_run(command.run, config, command.format, command.out)}")


def _export_adapter(args: list[str]) -> None:
    command = parse(ExportAdapterCommand, args, "innerpo export")
    config = trusted_config(existing_folder(command.run), command.trust_remote_code)
    from innerpo.sharing.gguf_lora import export_lora

    say(f"written to {export_lora(command.run, config, command.dir)}")


def data(args: list[str]) -> None:
    """Show a data set: sizes, lengths, three rows: data math."""
    command = parse(DataCommand, args, "innerpo data")
    from innerpo.cli.render_data import as_rich
    from innerpo.data.describe import describe

    stdout.print(as_rich(command.name, describe(command.name, command.data)))


def demo(args: list[str]) -> None:
    """Train DPO, residual and its control on an embedded shift, compare them with the base: minutes on a CPU."""
    command = parse(DemoCommand, args, "innerpo demo")
    from innerpo.demo import run_demo

    _show(run_demo(command.output_dir, command.seed))


def doctor(args: list[str]) -> None:
    """Check a loss before training on it: doctor innerpo, doctor innerpo --method.extra my_term 0.5."""
    label = read_method(args, "innerpo doctor", doctor.__doc__)
    config = default_run(label)
    few = replace(config.data, dataset="embedded:longer", max_train_prompts=16)
    default = DoctorCommand(config.method, few, config.model)
    about = f"{doctor.__doc__}\n\n{about_method(label)}"
    command = parse(DoctorCommand, args[1:], f"innerpo doctor {label}", default, about)
    from innerpo.cli.render_doctor import as_rich
    from innerpo.doctor.checks import run_checks

    config = replace(config, method=command.method, data=command.data, model=command.model)
    report = run_checks(config, command.seed)
    stdout.print(as_rich(report))
    if report.failures:
        raise UserError(f"{report.method} fails {len(report.failures)} checks: {'; '.join(report.failures)}")


def examples(args: list[str]) -> None:
    """Print commands to copy, each of which works as written."""
    parse(ExamplesCommand, args, "innerpo examples")
    for command, meaning in EXAMPLES.items():
        stdout.print(f"# {meaning}", style="dim", markup=False, soft_wrap=True)
        stdout.print(command, markup=False, soft_wrap=True)


VERBS: dict[str, Callable[[list[str]], None]] = {
    "train": train,
    "eval": evaluate,
    "data": data,
    "demo": demo,
    "doctor": doctor,
    "inspect": inspect,
    "sweep": sweep,
    "tune": tune,
    "combine": combine,
    "merge": merge,
    "push": push,
    "compare": compare,
    "table": table,
    "export": export,
    "report": report,
    "view": view,
    "generate": generate,
    "chat": chat,
    "bridge": bridge,
    "examples": examples,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return the exit code.

    0; 1 where runs of a sweep failed; 2 for a fault in what was requested; 3 for a fault of the machine.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        if args and args[0] in VERBS:
            with listening():
                VERBS[args[0]](args[1:])
        else:
            _without_verb(args)
    except UserError as error:
        error_line(str(error))
        return error.exit_code
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        error_line("out of memory; a smaller data.batch_size needs less")
        return MachineError.exit_code
    except KeyboardInterrupt as stop:
        otherwise = "interrupted; the same command with training.resume goes on from the last checkpoint"
        error_line(str(stop) or otherwise)
        return 130
    return 0


def _without_verb(args: list[str]) -> None:
    """Answer what is given in the place of a verb: an option of the program itself, or a word that is none."""
    if not args:
        raise UserError(f"innerpo needs a verb: {', '.join(VERBS)}; innerpo --help says what each does")
    if args[0] == "--version":
        stdout.print(f"innerpo {__version__}")
    elif args[0].replace("_", "-") in ("--tyro-print-completion", "--tyro-write-completion"):
        from innerpo.cli.completion import write_completion

        write_completion(args)
    elif args[0] in ("--help", "-h", "--help-all"):
        helps = {verb: function.__doc__ or "" for verb, function in VERBS.items()}
        show_choices(helps, "innerpo", "Preference optimisation on hidden states, and a measure of how it generalises.")
    elif args[0].startswith("-"):
        raise unknown("option", args[0], ("--version", "--help"), "innerpo --help lists the verbs")
    else:
        raise unknown("verb", args[0], VERBS, f"the verbs are {', '.join(VERBS)}")


def _show(result: Any) -> None:
    from innerpo.cli.render_scores import headline_table

    tables = list((result.tables or {}).values())
    for shown in tables:
        stdout.print(headline_table(shown))
    for line in tables[0].lines() if tables else ():
        stdout.print(line, markup=False, soft_wrap=True)
    say(f"written to {result.folder}")


def entry() -> None:
    """Exit with main's code (the installed command)."""
    # peft 0.21 asks transformers 5.23 by a name that it renamed; nothing that a person here could mend.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.exit(main())
