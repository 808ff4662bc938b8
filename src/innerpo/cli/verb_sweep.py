"""The verb `sweep`: every run of a study, as often as it takes."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import arg

from innerpo.cli.console import stdout
from innerpo.cli.flags import parse
from innerpo.cli.help import wanted
from innerpo.cli.study_words import split_fields
from innerpo.experiments.launch_options import Launch, LauncherName, RayOptions, SlurmOptions


@dataclass(frozen=True)
class SweepCommand:
    """Train and score every run of a study, and show the table: a YAML file, or methods, data sets and seeds.

    Any option of `innerpo train` may be given with several values, each with each: --training.lr 1e-4 2e-4. Runs that
    are done are kept, so the same command goes on where it was stopped; several of it share the work.
    """

    study: Annotated[tuple[Path, ...], tyro.conf.Positional, arg(metavar="STUDY")] = ()
    """YAML file of the study; what is given beside it comes before what it says."""
    methods: tuple[str, ...] = ()
    """Methods (dpo, innerpo-supr)."""
    datasets: tuple[str, ...] = ()
    """Data sets (math), or shifts ('math -> change_my_view')."""
    seeds: tuple[int, ...] = ()
    """Training seeds; else 1."""
    models: tuple[str, ...] = ()
    """Base models."""
    output_dir: Path | None = None
    """Folder of the runs; else what the study says, or outputs/<name of its file>."""
    archive: Path | None = None
    """Folder that gets scores, configs and logs of finished runs, without weights; what it holds is not run again."""
    workers: int = 0
    """Processes or jobs that share the work, each with its GPU or its threads; 0 = one for each GPU, or one."""
    retry_failed: bool = False
    """Try runs again that failed earlier."""
    dry_run: bool = False
    """Only list the runs, how they stand, and the time and memory that each needs; nothing is written."""
    launcher: LauncherName = "local"
    """Where the workers run: processes on this machine, jobs of Slurm, or tasks of Ray."""
    format: Literal["text", "markdown", "latex", "csv", "json"] = "text"
    """How the table is written."""
    slurm: SlurmOptions = field(default_factory=SlurmOptions)
    """What a worker asks Slurm for."""
    ray: RayOptions = field(default_factory=RayOptions)
    """What a worker asks Ray for."""


def sweep(args: list[str]) -> None:
    """Train and score every run of a study and show the table: sweep studies/headline.yaml, sweep --methods dpo ipo."""
    words, fields = split_fields(args, "innerpo sweep") if not wanted(args) else (args, {})
    command = parse(SweepCommand, words, "innerpo sweep")
    from innerpo.cli.sweep_runs import list_runs, run_sweep
    from innerpo.experiments.sweep import find_study

    if len(command.study) > 1:
        from innerpo.errors import UserError

        raise UserError(f"innerpo sweep takes one study, not {len(command.study)}")
    given: dict[str, Any] = {key: list(getattr(command, key)) for key in ("methods", "datasets", "seeds", "models")}
    options = {key: value for key, value in given.items() if value} | fields
    found = find_study(command.study[0] if command.study else None, options, command.output_dir, command.archive)
    how = Launch(command.launcher, command.workers, command.slurm, command.ray)
    if command.dry_run:
        list_runs(found, how, command.retry_failed)
    else:
        run_sweep(found, how, command.retry_failed, command.format)
    stdout.file.flush()
