"""Texts for a terminal: of each prompt the base's and the policy's, beside one another."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from innerpo.config.labels import scaled_label
from innerpo.data.pairs import Text as PromptText
from innerpo.evaluation.generations import Generation

SHOWN = 400
"""Characters of a prompt that are shown, its last ones."""


def side_by_side(texts: Sequence[Generation]) -> Table:
    """Return a table with a row per prompt and a column per model."""
    models = list(dict.fromkeys((text.model, text.strength) for text in texts))
    shown = Table(title=_title(texts), title_justify="left", show_lines=True)
    shown.add_column("prompt", ratio=1)
    for model, strength in models:
        shown.add_column(scaled_label(model, strength), ratio=1)
    by_prompt: dict[str, dict[tuple[str, float], Generation]] = {}
    for text in texts:
        by_prompt.setdefault(text.prompt_id, {})[text.model, text.strength] = text
    for own in by_prompt.values():
        prompt = _prompt(next(iter(own.values())).prompt)
        shown.add_row(Text(prompt), *(_cell(own[key]) for key in models))
    return shown


def _title(texts: Sequence[Generation]) -> str:
    first = texts[0]
    s = first.sampling
    drawn = f"drawn with temperature {s.temperature:g}, top_p {s.top_p:g}, seed {s.seed}" if s.sample else "greedy"
    return f"{first.dataset} ({first.split}), {drawn}, at most {s.max_new_tokens} tokens"


def _cell(text: Generation) -> Text:
    """The text, and beneath it what it measures: tokens, log-probability per token, and that under the base."""
    cell = Text(text.text.strip() or "(empty)")
    ends = "" if text.stopped else ", cut"
    by_base = f" (base {text.logp_base / text.tokens:.2f})" if text.model != "base" else ""
    return cell.append(f"\n{text.tokens} tokens{ends}, {text.logp / text.tokens:.2f} nats a token{by_base}", "dim")


def _prompt(prompt: PromptText) -> str:
    text = prompt if isinstance(prompt, str) else "\n".join(f"{m['role']}: {m['content']}" for m in prompt)
    return text.strip() if len(text) <= SHOWN else f"... {text.strip()[-SHOWN:]}"
