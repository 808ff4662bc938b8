"""Pairs as a data set of the Hugging Face Hub: parquet files and a card, which ``datasets.load_dataset`` reads."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from innerpo.data.pairs import PreferencePair
from innerpo.evaluation.bridges.selection import Exported, as_chat, file_name
from innerpo.evaluation.bridges.trl import check_alike, row_of
from innerpo.files import write_atomically, write_text

CARD = """\
# {name}

{counts}, exported from the data set `{dataset}` by InnerPO. The licence is that of the source.

| column | content |
| --- | --- |
| `prompt`, `chosen`, `rejected` | the pair, as {form} |
| `pair` | the pair's row in the source |
| `prompt_id` | identity of the prompt: pairs with the same prompt are not independent |
"""


def export_hub(
    dataset: str, splits: Mapping[str, Sequence[PreferencePair]], folder: Path, chat: bool = False
) -> Exported:
    """Write ``data/SPLIT-00000-of-00001.parquet`` for every split, and ``README.md`` with the split's files.

    Columns: ``prompt``, ``chosen``, ``rejected`` (text, or messages with ``chat``), ``pair`` (its row in the source)
    and ``prompt_id`` (pairs of one prompt share it). The folder can be uploaded as it is.
    """
    files = []
    for split, pairs in splits.items():
        shown = [as_chat(p) if chat else p for p in pairs]
        check_alike(shown, split)
        table = pa.Table.from_pylist([row_of(p) | {"pair": p.id, "prompt_id": p.cluster} for p in shown])
        files.append(folder / "data" / f"{split}-00000-of-00001.parquet")
        write_atomically(files[-1], partial(pq.write_table, table))
    write_text(folder / "README.md", _card(dataset, splits, chat))
    return Exported(folder, (*files, folder / "README.md"), {split: len(pairs) for split, pairs in splits.items()})


def _card(dataset: str, splits: Mapping[str, Sequence[PreferencePair]], chat: bool) -> str:
    """The card: which file is which split, for ``datasets`` and the Hub; then what a reader needs."""
    data_files = [{"split": split, "path": f"data/{split}-*.parquet"} for split in splits]
    head = {"configs": [{"config_name": "default", "data_files": data_files}], "tags": ["preference"]}
    counts = ", ".join(
        f"{split}: {len(pairs)} pairs of {len({p.cluster for p in pairs})} prompts" for split, pairs in splits.items()
    )
    first = next(pair for pairs in splits.values() for pair in pairs)
    form = "chat messages" if chat or not isinstance(first.prompt, str) else "text"
    text = CARD.format(name=file_name(dataset), counts=counts, dataset=dataset, form=form)
    return f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n\n{text}"
