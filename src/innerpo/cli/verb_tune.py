"""The verb `tune`: search a method's options on a held-out part of the training data."""

from innerpo.cli.commands import TuneCommand
from innerpo.cli.console import say, stdout
from innerpo.cli.flags import about_method, parse, read_method, with_files
from innerpo.config.run import default_run
from innerpo.errors import UserError


def tune(args: list[str]) -> None:
    """Search a method's options on held-out training prompts: tune innerpo --data.dataset=math --trials=20."""
    label = read_method(args, "innerpo tune", tune.__doc__)
    default, rest = default_run(label), args[1:]
    config = with_files(default, rest, label)
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
