"""``innerpo generate``: texts of base and policy side by side."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from innerpo.cli.commands import FIRST, EvalCommand
from innerpo.cli.console import say, stdout
from innerpo.cli.flags import own_config, parse

if TYPE_CHECKING:
    from innerpo.config.run import RunConfig


@dataclass(frozen=True)
class GenerateCommand(EvalCommand):
    """Write texts of a run's policy and of its base to the same prompts, and keep them with the scores."""

    prompts: int = 20
    """Prompts answered, a fixed choice from the set; 0 = all of it."""
    set: str = "test"
    """Evaluation set of the run that the prompts are taken from: train, test, oos, rnd, or one of eval.suite."""
    dataset: str | None = None
    """Data set whose test prompts are answered, in place of one of the run's sets."""
    strength: float = 1.0
    """Factor on the adapter's update: 1 is the adapter as trained."""
    max_new_tokens: int = 128
    """Longest text, in tokens."""
    sample: bool = False
    """Draw each token at random, by temperature and top_p; else the most likely one is taken (greedy)."""
    temperature: float = 1.0
    """Logits are divided by it before drawing."""
    top_p: float = 1.0
    """Draw from the fewest tokens whose probabilities add up to this share."""
    seed: int = 0
    """Seed of the draws."""


FIRST[GenerateCommand] = (
    *("run", "prompts", "set", "dataset", "strength"),
    *("max_new_tokens", "sample", "temperature", "top_p", "seed", "eval.batch_size"),
)


def generate(args: list[str]) -> None:
    """Write texts of a run and of its base to the same prompts: generate outputs/dpo_math_seed1 --prompts=20."""
    command, config = _read(args)
    from innerpo.cli.render_generations import side_by_side
    from innerpo.evaluation.generate import GenerationRequest, generate_run
    from innerpo.model.sampling import Sampling

    sampling = Sampling(command.max_new_tokens, command.sample, command.temperature, command.top_p, command.seed)
    request = GenerationRequest(command.prompts, command.set, command.dataset, command.strength, sampling)
    found = generate_run(command.run, config, request)
    stdout.print(side_by_side(found.texts))
    say(f"written to {found.path}")


def _read(args: list[str]) -> "tuple[GenerateCommand, RunConfig]":
    """Read the options; those of the run are the defaults. The training set matters only for the run's own sets."""
    from dataclasses import replace

    folder, config = own_config(GenerateCommand, args, "innerpo generate")
    default = GenerateCommand(run=folder, eval=config.eval, data=config.data, model=config.model)
    command = parse(GenerateCommand, args, "innerpo generate", default)
    return command, replace(config, eval=command.eval, data=command.data, model=command.model)
