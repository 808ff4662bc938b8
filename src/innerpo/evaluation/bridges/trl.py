"""Pairs in the form that TRL documents: jsonl with ``prompt``, ``chosen``, ``rejected``, as text or as messages."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from innerpo.data.pairs import PreferencePair
from innerpo.errors import UserError
from innerpo.evaluation.bridges.selection import Exported, as_chat, plain
from innerpo.files import write_text


def export_trl(splits: Mapping[str, Sequence[PreferencePair]], folder: Path, chat: bool = False) -> Exported:
    """Write ``SPLIT.jsonl`` for every split, a pair a line, with an explicit prompt.

    ``chat`` makes one user turn of a plain prompt and one assistant turn of a plain response (TRL's conversational
    form): the model's chat template then stands around them. TRL reads the files as
    ``load_dataset("json", data_files=...)``, this project as the data set FOLDER.
    """
    files = []
    for split, pairs in splits.items():
        shown = [as_chat(pair) if chat else pair for pair in pairs]
        check_alike(shown, split)
        files.append(folder / f"{split}.jsonl")
        write_text(files[-1], "".join(json.dumps(row_of(p), ensure_ascii=False) + "\n" for p in shown))
    return Exported(folder, tuple(files), {split: len(pairs) for split, pairs in splits.items()})


def row_of(pair: PreferencePair) -> dict[str, object]:
    """Return a pair as a row: prompt, chosen and rejected as TRL takes them."""
    return {"prompt": plain(pair.prompt), "chosen": plain(pair.chosen), "rejected": plain(pair.rejected)}


def check_alike(pairs: Sequence[PreferencePair], split: str) -> None:
    """Refuse a mixture of text and messages: a column of a data set has one type."""
    if len({type(pair.prompt) for pair in pairs}) > 1:
        raise UserError(f"the split {split} mixes plain text with chat messages; export it as chat messages (chat)")
