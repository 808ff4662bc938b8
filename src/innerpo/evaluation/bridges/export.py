"""Export a data set in a named form."""

from pathlib import Path
from typing import Literal

from innerpo.config.data import DataConfig
from innerpo.config.model import ModelConfig
from innerpo.data.tokens import PairTokenizer
from innerpo.errors import UserError
from innerpo.evaluation.bridges.selection import Exported, splits_of
from innerpo.files import cache_root
from innerpo.model.loading import load_tokenizer

Form = Literal["lm-eval", "trl", "hub"]


def export_dataset(
    dataset: str,
    form: Form,
    folder: Path,
    data: DataConfig | None = None,
    model: ModelConfig | None = None,
    *,
    split: Literal["train", "test", "both"] | None = None,
    max_prompts: int = 0,
    negatives: Literal["all", "one"] = "all",
    chat: bool = False,
) -> Exported:
    """Write splits of a data set into a folder: a task of lm-evaluation-harness, TRL's jsonl, or a data set of the Hub.

    ``split``: by default "test" for the harness and "both" for the others. A task is made for the tokenizer of
    ``model``. Raises UserError where the data set or the tokenizer cannot be loaded.
    """
    data, model = data or DataConfig(), model or ModelConfig()
    splits = splits_of(dataset, split or ("test" if form == "lm-eval" else "both"), data, max_prompts, negatives)
    if form == "trl":
        from innerpo.evaluation.bridges.trl import export_trl

        return export_trl(splits, folder, chat)
    if form == "hub":
        from innerpo.evaluation.bridges.hub import export_hub

        return export_hub(dataset, splits, folder, chat)
    if chat:
        raise UserError("chat is for the forms trl and hub; a task holds texts as the model reads them")
    from innerpo.evaluation.bridges.lm_eval import export_task

    tokenizer = load_tokenizer(model, cache_root(data.cache_dir))
    parts = [
        export_task(
            dataset, name, pairs, PairTokenizer(tokenizer, data.max_prompt_tokens, data.max_response_tokens), folder
        )
        for name, pairs in splits.items()
    ]
    return Exported(
        folder,
        tuple(dict.fromkeys(file for part in parts for file in part.files)),
        {name: n for part in parts for name, n in part.pairs.items()},
        tuple(note for part in parts for note in part.notes),
    )
