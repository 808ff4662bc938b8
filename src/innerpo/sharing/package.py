"""What is uploaded of a run: some of its files by name, records without this machine's paths, a card with scores."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl

from innerpo.config.combined import FILE as COMBINED
from innerpo.config.labels import label_of_folder
from innerpo.config.run import RunConfig, to_dict
from innerpo.config.yaml import as_yaml, read_yaml
from innerpo.evaluation.facts import FILES as FACTS
from innerpo.files import cache_root
from innerpo.sharing.bases import hub_id, is_local, name_of_base
from innerpo.sharing.card import hub_card
from innerpo.sharing.clean import Cleaner, check_clean, places_in
from innerpo.sharing.merge import check_mergeable, merge_run
from innerpo.sharing.results import RESULTS, eval_results, results_of
from innerpo.training import artifacts
from innerpo.training.directions_file import DIRECTIONS
from innerpo.training.paths import CONFIG, METRICS, RECORD

ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
RECORDS = (CONFIG, RECORD, METRICS, COMBINED, "headline.json", "headline.md", "overlap.jsonl")
MODEL = (
    *("config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json"),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "chat_template*", "vocab*", "merges.txt"),
)
"""Files of a whole model as transformers saves them."""
KEPT_HERE = ("genies_dir", "ethics_dir", "cache_dir", "output_dir")
"""Fields of a config that say where files lie here; others have their own."""


def is_ours(name: str) -> bool:
    """Whether a file of a repository has a name that a push gives, so that an earlier push may have left it."""
    patterns = (*MODEL, *ADAPTER, *RECORDS, DIRECTIONS, *(f"{stem}.*" for stem in FACTS.values()), f"{RESULTS}/*")
    return any(fnmatch(name, pattern) for pattern in patterns)


@dataclass(frozen=True)
class Package:
    """What is uploaded: every file by its name in the repository, where it lies here, and what a reader should know."""

    files: dict[str, Path]
    notes: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(path.stat().st_size for path in self.files.values())


@contextmanager
def packed(folder: Path, config: RunConfig, repo: str, merged: bool = False) -> Iterator[Package]:
    """Yield the files of a run as they are uploaded to a repository; those made for it vanish afterwards.

    ``merged``: the merged model in place of the adapter. Raises UserError where the folder holds nothing to share, and
    where a path of this machine or a secret would be uploaded.
    """
    artifacts.check_adapter(folder)
    if merged:
        check_mergeable(folder, config)
    with TemporaryDirectory(prefix="innerpo-push-") as made:
        yield _pack(folder, config, repo, merged, Path(made))


def _pack(folder: Path, config: RunConfig, repo: str, merged: bool, made: Path) -> Package:
    cleaner = _cleaner(folder, config)
    whole = merged or not (folder / ADAPTER[0]).is_file()
    weights = folder
    if merged:
        weights = merge_run(folder, config, made / "merged").folder
    patterns = (*MODEL, *["*.py"] * config.model.trust_remote_code) if whole else ADAPTER
    files = {p.name: p for pattern in patterns for p in sorted(weights.glob(pattern)) if p.is_file()}
    files |= {name: folder / name for name in (*RECORDS, DIRECTIONS) if (folder / name).is_file()}
    files |= {p.name: p for stem in FACTS.values() for p in sorted(folder.glob(f"{stem}.*")) if p.suffix in _FACTS}
    for name, path in files.items():
        if (write := _WRITERS.get(path.suffix)) is not None and name != "tokenizer.json":
            write(path, made / name, cleaner)
            files[name] = made / name
    own = results_of(folder, label_of_folder(folder, config))
    results = [replace(r, dataset=cleaner.value(r.dataset)) for r in own]
    texts = eval_results(results) | {"README.md": hub_card(folder, config, results, repo, merged, cleaner)}
    for name, text in texts.items():
        files[name] = made / "texts" / name
        files[name].parent.mkdir(parents=True, exist_ok=True)
        files[name].write_text(text)
    named = {Path(place).parent for place in places_in(to_dict(config)) if Path(place).is_absolute()}
    check_clean(files, [folder.parent, cache_root(config.data.cache_dir), *named])
    return Package(dict(sorted(files.items())), tuple(_notes(config, results, texts)))


def _notes(config: RunConfig, results: Any, texts: dict[str, str]) -> Iterator[str]:
    if not hub_id(config.model.base_model):
        base = name_of_base(config.model.base_model)
        yield f"the base model is a local folder: who loads this run must name it ({base!r} is all that is uploaded)"
    if not results:
        yield "the run was not scored: the card has no table"
    elif len(texts) == 1:
        yield "no set that was scored is on the Hub, so there are no .eval_results; the card has the table"


def _cleaner(folder: Path, config: RunConfig) -> Cleaner:
    """Every absolute path in the run's records to its last part; the base's folder to its name on the Hub."""
    held = [read_yaml(folder / name) for name in (CONFIG, RECORD, COMBINED, ADAPTER[0]) if (folder / name).is_file()]
    names = {place: Path(place).name for place in places_in(held)}
    for path in (folder, folder.resolve()):
        if path.is_absolute():
            names[str(path)] = path.name
    base = config.model.base_model
    if is_local(base):
        names[base] = name_of_base(base)
    if (folder / ADAPTER[0]).is_file():
        named = read_yaml(folder / ADAPTER[0]).get("base_model_name_or_path")
        if isinstance(named, str) and is_local(named):
            names[named] = hub_id(base) or name_of_base(base)
    return Cleaner({place: name for place, name in names.items() if len(place) > 1})


def _without_folders(values: Any) -> Any:
    """A config without the fields that say where files lie on this machine."""
    if not isinstance(values, dict):
        return values
    return {k: _without_folders(v) for k, v in values.items() if k not in KEPT_HERE}


def _yaml(source: Path, target: Path, cleaner: Cleaner) -> None:
    target.write_text(as_yaml(cleaner.value(_without_folders(read_yaml(source)))))


def _json(source: Path, target: Path, cleaner: Cleaner) -> None:
    values = _without_folders(json.loads(source.read_text()))
    target.write_text(json.dumps(cleaner.value(values), indent=2) + "\n")


def _lines(source: Path, target: Path, cleaner: Cleaner) -> None:
    rows = (json.loads(line) for line in source.read_text().splitlines() if line)
    target.write_text("".join(json.dumps(cleaner.value(row)) + "\n" for row in rows))


def _text(source: Path, target: Path, cleaner: Cleaner) -> None:
    target.write_text(cleaner.text(source.read_text()))


def _parquet(source: Path, target: Path, cleaner: Cleaner) -> None:
    cleaner.frame(pl.read_parquet(source)).write_parquet(target)


_FACTS = (".parquet", ".jsonl")
_WRITERS: dict[str, Callable[[Path, Path, Cleaner], None]] = {
    ".yaml": _yaml,
    ".json": _json,
    ".jsonl": _lines,
    ".md": _text,
    ".parquet": _parquet,
}
"""How a file with an ending is written again without this machine's paths; others are uploaded as they are."""
