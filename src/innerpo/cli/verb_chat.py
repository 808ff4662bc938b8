"""``innerpo chat``: a conversation with base and adapter side by side."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import arg

from innerpo.cli.commands import FIRST
from innerpo.cli.flags import own_config, parse
from innerpo.config.model import ModelConfig


@dataclass(frozen=True)
class ChatCommand:
    """Talk to a run's base and adapter side by side, with the log-probability of each answer under both.

    /reset, /strength X, /temperature T, /help and /quit are commands; Ctrl-C stops an answer. Prompts may be piped in,
    one a line.
    """

    run: Annotated[Path, tyro.conf.Positional, arg(metavar="RUN")]
    """Folder of a run or of a peft adapter."""
    strength: float = 1.0
    """Factor on the adapter's update: 1 is the adapter as trained."""
    temperature: float = 0.0
    """Temperature at which answers are drawn; 0 = the most likely tokens (greedy)."""
    top_p: float = 1.0
    """Draw from the fewest tokens whose probabilities add up to this share."""
    max_new_tokens: int = 256
    """Longest answer, in tokens."""
    seed: int = 0
    """Seed of the draws."""
    system: str = ""
    """Text of a system turn that opens the conversation."""
    plain: bool = False
    """Give prompts to the models as they are, without chat template and history."""
    model: ModelConfig = field(default_factory=ModelConfig)


FIRST[ChatCommand] = ("run", "strength", "temperature", "top_p", "max_new_tokens", "seed", "system", "plain")


def chat(args: list[str]) -> None:
    """Talk to base and adapter side by side: chat outputs/dpo_math_seed1 --temperature=0.7."""
    folder, config = own_config(ChatCommand, args, "innerpo chat")
    command = parse(ChatCommand, args, "innerpo chat", ChatCommand(run=folder, model=config.model))
    from innerpo.cli.chat_loop import run_chat
    from innerpo.model.sampling import Sampling

    sampling = Sampling(command.max_new_tokens, top_p=command.top_p, seed=command.seed)
    options = {"strength": command.strength, "plain": command.plain, "system": command.system}
    run_chat(folder, replace(config, model=command.model), sampling, command.temperature, **options)
