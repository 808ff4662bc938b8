"""The verb `tune`: search a method's options on a held-out part of the training data."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from innerpo.cli.console import say, stdout
from innerpo.cli.flags import about_method, parse, read_method, with_files
from innerpo.config.run import RunConfig, default_run
from innerpo.errors import UserError


@dataclass(frozen=True)
class TuneCommand:
    """Search a method's options for the best accuracy on a held-out part of the training data."""

    run: Annotated[RunConfig, arg(name="")] = field(default_factory=RunConfig)
    trials: int = 20
    """Trials in all, those of earlier commands on the folder included; the first has the values to start from."""
    timeout: float = 0.0
    """Begin no trial when all together have taken so many seconds, those of earlier commands included; 0 = any time."""
    seed: int = 0
    """Seed of the suggestions and of the prompts that are held out; the training seed is training.seed."""
    out: Path | None = None
    """Folder of the search; else tune_<name of the run> in output_dir."""
    drift_penalty: float = 0.0
    """Accuracy that a nat per token of output drift costs."""
    scorer: str = "mean_logp"
    """What ranks the two responses of a pair when a trial is measured."""
    validation: float = 0.2
    """Prompts of the train split that are held out: below 1 a share, else a number (at most eval.max_prompts)."""
    ranges: tuple[str, ...] = ()
    """What to vary besides or instead of the method's own fields: method.tau=0.3:3:log data.shuffled_labels=0:0.5."""
    prune: bool = True
    """Give a trial up at a third or two thirds of its steps where it is below the median of the others."""
    config: Path | None = None
    """YAML file with the options to start from, as sections (training: {lr: 1e-5})."""
    preset: str | None = None
    """Named YAML of the package (demo, dev, gpu); a --config file overrides it."""


def tune(args: list[str]) -> None:
    """Search a method's options on held-out training prompts: tune innerpo --data.dataset=math --trials=20."""
    label = read_method(args, "innerpo tune", tune.__doc__)
    default, rest = default_run(label), args[1:]
    config = with_files(default, rest)
    command = parse(TuneCommand, rest, f"innerpo tune {label}", TuneCommand(run=config), about_method(label))
    if command.run.method.name != default.method.name:
        raise UserError(f"the config is of the method {command.run.method.name!r}, the command is tune {label}")
    from innerpo.cli.render_tune import summary, trials_table
    from innerpo.experiments.tuning.request import read_ranges, tune_request
    from innerpo.experiments.tuning.trials import Trial
    from innerpo.experiments.tuning.tune import folder_of, search
    from innerpo.experiments.tuning.work import Budget

    request = tune_request(
        command.run,
        read_ranges(command.ranges),
        {word.partition("=")[0].lstrip("-").replace("-", "_") for word in rest if word.startswith("--")},
        seed=command.seed,
        validation=command.validation,
        scorer=command.scorer,
        drift_penalty=command.drift_penalty,
        prune=command.prune,
    )
    folder = folder_of(request, command.out)
    say(f"{command.trials} trials of {', '.join(request.space)} in {folder}")

    def each(trial: Trial) -> None:
        said = trial.error if trial.error else f"{trial.value:.3f}"
        say(f"{trial.name} {trial.state}: {said}")

    try:
        found = search(request, Budget(command.trials, command.timeout), folder, each=each)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted; the same command goes on where it stopped") from None
    stdout.print(trials_table(found))
    stdout.print(summary(found), markup=False, soft_wrap=True)
    stdout.file.flush()
