"""The model card of a repository: metadata that the Hub reads, what was trained, tables of scores, how to load it."""

import json
from collections.abc import Sequence
from pathlib import Path

from innerpo.config.combined import read_combined
from innerpo.config.labels import label_of_folder
from innerpo.config.run import RunConfig
from innerpo.config.yaml import read_run_config
from innerpo.sharing.bases import hub_id, name_of_base
from innerpo.sharing.clean import Cleaner
from innerpo.sharing.results import Result, model_index
from innerpo.training.artifacts import is_frozen
from innerpo.training.card import LIBRARIES, Kind, model_card
from innerpo.training.paths import RECORD

SCORED_BEFORE = "scored before merging, as base + adapter"


def hub_card(
    folder: Path,
    config: RunConfig,
    results: Sequence[Result],
    where: tuple[str, str | None],
    merged: bool,
    cleaner: Cleaner,
    scored: Path | None = None,
) -> str:
    """Return the README.md of a repository with a run; its table is that of the folder ``scored``, else of the run.

    ``where``: the repository, and the branch if it is not the main one.
    """
    from huggingface_hub import ModelCardData

    known, label = hub_id(config.model.base_model), label_of_folder(folder, config)
    kind = _kind(folder, merged)
    whole = kind in ("whole", "merged")
    methods = [] if read_run_config(folder) is None else [config.method.name]  # a combined adapter has none of its own
    data = ModelCardData(
        library_name=LIBRARIES[kind],
        base_model=known or None,
        base_model_relation=("finetune" if whole else "adapter") if known else None,
        tags=["innerpo", "preference-optimisation", *methods, *["merged"] * merged],
        model_name=where[0].partition("/")[2],
        eval_results=model_index(results) or None,
        ignore_metadata_errors=False,
    )
    body = cleaner.text(_about(folder, config, label, kind) + _scores(scored or folder, merged))
    return f"---\n{data.to_yaml()}\n---\n\n{body}\n{_use(where, whole)}"


def _kind(folder: Path, merged: bool) -> Kind:
    """What the repository's weights are."""
    if merged:
        return "merged"
    if (folder / "adapter_config.json").is_file():
        return "adapter"
    return "directions" if is_frozen(folder) else "whole"


def _about(folder: Path, config: RunConfig, label: str, kind: Kind) -> str:
    """What was trained: the run's own card; of another adapter, what its record says."""
    if read_run_config(folder) is not None and (folder / RECORD).is_file():
        return model_card(config, json.loads((folder / RECORD).read_text()), kind).split("---\n", 2)[2].lstrip()
    combined = read_combined(folder)
    base = f"`{hub_id(config.model.base_model) or name_of_base(config.model.base_model)}`"
    what = {"merged": f"{base} with an adapter merged into its weights", "whole": f"A fine-tune of {base}"}
    lines = [f"# {folder.resolve().name}", "", f"{what.get(kind, f'An adapter of {base}')}: {label}."]
    if combined is not None:
        lines += ["", "| weight | adapter |", "| ---: | --- |"]
        lines += [f"| {s.weight:g} | {s.label} (`{Path(s.folder).name}`) |" for s in combined.sources]
    return "\n".join([*lines, ""])


def _scores(folder: Path, merged: bool) -> str:
    path = folder / "headline.md"
    before = f"This policy was {SCORED_BEFORE}.\n\n" if merged else ""
    return f"\n## Scores\n\n{before}{path.read_text()}" if path.is_file() else ""


def _use(where: tuple[str, str | None], whole: bool) -> str:
    name = f'"{where[0]}"' if where[1] is None else f'"{where[0]}", revision="{where[1]}"'
    plain = "" if not whole else f"\nWithout InnerPO: `AutoModelForCausalLM.from_pretrained({name})`.\n"
    return f"""
## Use

```python
import innerpo

loaded = innerpo.load({name})
loaded.policy, loaded.tokenizer, loaded.directions
```
{plain}"""
