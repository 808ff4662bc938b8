"""``innerpo chat``: a conversation with base and adapter side by side."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from tyro.conf import arg

from innerpo.cli.commands import FIRST
from innerpo.cli.console import error_line, say, stdout
from innerpo.cli.flags import parse
from innerpo.config.run import ModelConfig
from innerpo.config.yaml import config_of_folder
from innerpo.errors import UserError, near_matches
from innerpo.files import existing_folder

if TYPE_CHECKING:
    from innerpo.evaluation.chat import Conversation

COMMANDS = {
    "/reset": "forget what was said",
    "/strength X": "factor on the adapter's update: 0 is the base, 1 the adapter as trained",
    "/temperature T": "draw answers at a temperature; 0 takes the most likely tokens",
    "/help": "show these commands",
    "/quit": "leave (or the end of the input)",
}


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
    folder = existing_folder(parse(ChatCommand, args, "innerpo chat").run)
    config = config_of_folder(folder)
    command = parse(ChatCommand, args, "innerpo chat", ChatCommand(run=folder, model=config.model))
    from innerpo.evaluation.chat import open_conversation
    from innerpo.model.sampling import Sampling

    sampling = Sampling(command.max_new_tokens, top_p=command.top_p, seed=command.seed)
    config = replace(config, model=command.model)
    options: dict[str, Any] = {"strength": command.strength, "plain": command.plain, "system": command.system}
    with open_conversation(folder, config, sampling, command.temperature, **options) as talk:
        say(f"{talk.label} beside its base; {'by chat template' if talk.by_template else 'plain text, no history'}")
        say(f"commands: {', '.join(COMMANDS)}")
        _converse(talk)


def _converse(talk: "Conversation") -> None:
    """Answer prompts until the input ends or a person leaves."""
    while (line := _read()) is not None:
        try:
            if line.startswith("/"):
                if line == "/quit":
                    return
                say(_obey(talk, line))
            elif line:
                _answer(talk, line)
        except UserError as error:
            error_line(str(error))
        except KeyboardInterrupt:  # between two answers
            say("stopped; this prompt is not remembered")


def _read() -> str | None:
    """Return the next line without white space around it; None at the end of the input."""
    asked = sys.stdin.isatty()
    try:
        return (stdout.input("[bold]> [/]") if asked else next(sys.stdin)).strip()
    except (EOFError, StopIteration):
        return None
    except KeyboardInterrupt:
        say("\n/quit leaves")
        return ""


def _obey(talk: "Conversation", line: str) -> str:
    """Carry a command out; return what to say about it."""
    word, _, value = line.partition(" ")
    if word == "/reset":
        talk.reset()
        return "forgotten"
    if word == "/help":
        return "\n".join(f"{name}: {about}" for name, about in COMMANDS.items())
    settings: dict[str, Callable[[float], Any]] = {
        "/strength": talk.set_strength,
        "/temperature": talk.set_temperature,
    }
    if word not in settings:
        names = [name.partition(" ")[0] for name in COMMANDS]
        raise UserError(f"there is no command {word}{near_matches(word, names)}")
    try:
        number = float(value)
    except ValueError:
        raise UserError(f"{word} takes a number, not {value.strip()!r}") from None
    settings[word](number)
    return f"{word.removeprefix('/')} {number:g}"


def _answer(talk: "Conversation", prompt: str) -> None:
    from innerpo.cli.render_chat import as_columns, as_lines, live

    if not stdout.is_terminal:
        answers = talk.both(prompt)
        for line in (f"> {prompt}", *as_lines(answers, talk.label)):
            stdout.print(line, markup=False, soft_wrap=True)
        return
    with live(stdout, talk.label) as show:
        answers = talk.both(prompt, show)
    stdout.print(as_columns(answers, talk.label))
