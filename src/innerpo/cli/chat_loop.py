"""The loop of a chat: read a prompt or a command, answer or obey, until the input ends."""

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from innerpo.cli.console import error_line, say, stdout
from innerpo.cli.render_chat import as_columns, as_lines, live
from innerpo.config.run import RunConfig
from innerpo.errors import UserError, near_matches
from innerpo.evaluation.chat import Conversation, open_conversation
from innerpo.model.sampling import Sampling

COMMANDS = {
    "/reset": "forget what was said",
    "/strength X": "factor on the adapter's update: 0 is the base, 1 the adapter as trained",
    "/temperature T": "draw answers at a temperature; 0 takes the most likely tokens",
    "/help": "show these commands",
    "/quit": "leave (or the end of the input)",
}


def run_chat(folder: Path, config: RunConfig, sampling: Sampling, temperature: float, **options: Any) -> None:
    """Talk to a run's base and policy until the input ends; ``options`` are those of the conversation."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        # Bytes that are no text would come as lone surrogates, which no tokenizer takes, or end the program.
        sys.stdin.reconfigure(errors="replace")
    with open_conversation(folder, config, sampling, temperature, **options) as talk:
        say(f"{talk.label} beside its base; {'by chat template' if talk.by_template else 'plain text, no history'}")
        say(f"commands: {', '.join(COMMANDS)}")
        _converse(talk)


def _converse(talk: Conversation) -> None:
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


def _obey(talk: Conversation, line: str) -> str:
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


def _answer(talk: Conversation, prompt: str) -> None:
    if not stdout.is_terminal:
        answers = talk.both(prompt)
        for line in (f"> {prompt}", *as_lines(answers, talk.label)):
            stdout.print(line, markup=False, soft_wrap=True)
        return
    with live(stdout, talk.label) as show:
        answers = talk.both(prompt, show)
    stdout.print(as_columns(answers, talk.label))
