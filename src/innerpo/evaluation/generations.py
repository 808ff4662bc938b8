"""Generated texts as records, and the file in which they are kept beside the scores."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from innerpo.data.pairs import Text
from innerpo.errors import UserError
from innerpo.files import write_text
from innerpo.model.sampling import Sampling

FILE = "generations.jsonl"


@dataclass(frozen=True)
class Generation:
    """A text that a model wrote to a prompt.

    ``set`` is the evaluation set that the prompt is taken from, ``dataset`` and ``split`` where it stands;
    ``prompt_id`` identifies it (the column ``prompt`` of the scores), ``prompt`` is its text or messages. ``model`` is
    base or the policy's label, ``strength`` the factor on its update (0 for the base). ``text`` goes without the
    closing token, ``tokens`` counts with it, and ``stopped`` says whether there is one. ``logp`` is the log-probability
    of these tokens under the model that wrote them, ``logp_base`` under the base, both summed, in nats, at temperature
    1. ``weights`` identifies the weights that wrote it.
    """

    set: str
    dataset: str
    split: str
    prompt_id: str
    prompt: Text
    model: str
    strength: float
    text: str
    tokens: int
    logp: float
    logp_base: float
    stopped: bool
    sampling: Sampling
    weights: str = ""

    @property
    def place(self) -> tuple[object, ...]:
        """What identifies a text but for its content: one drawn again replaces it."""
        return (self.set, self.dataset, self.split, self.prompt_id, self.model, self.strength, self.sampling)


def write_generations(folder: Path, found: Sequence[Generation]) -> Path:
    """Add texts to the file in a folder, whole or not at all; return its path.

    A text drawn again takes the place of the earlier one. Earlier texts of the same models by other weights go.
    """
    path = folder / FILE
    earlier = read_generations(folder) if path.is_file() else []
    new, weights = {g.place for g in found}, {g.model: g.weights for g in found}
    kept = [g for g in earlier if g.place not in new and weights.get(g.model, g.weights) == g.weights]
    lines = (json.dumps(asdict(g), ensure_ascii=False) for g in [*kept, *found])
    write_text(path, "".join(f"{line}\n" for line in lines))
    return path


def read_generations(folder: Path) -> list[Generation]:
    """Return the texts that a folder holds. Raises UserError where there are none, or a line is no text."""
    path = folder / FILE
    if not path.is_file():
        raise UserError(f"{folder} holds no {FILE}; generate texts to write it")
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not line:
            continue
        try:
            found.append(_generation(json.loads(line)))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f"{path} line {number} is no generated text: {error}; generate the texts again") from error
    return found


def _generation(row: dict[str, Any]) -> Generation:
    prompt = row["prompt"]
    text: Text = prompt if isinstance(prompt, str) else tuple(dict(message) for message in prompt)
    return Generation(**row | {"prompt": text, "sampling": Sampling(**row["sampling"])})
