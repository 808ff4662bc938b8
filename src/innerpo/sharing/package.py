"""What is uploaded of a run: some of its files by name, records without this machine's paths, a card with scores."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl

from innerpo.config.combined import FILE as COMBINED
from innerpo.config.labels import label_of_folder
from innerpo.config.run import RunConfig, to_dict
from innerpo.config.yaml import as_yaml, read_yaml
from innerpo.errors import UserError
from innerpo.evaluation.facts import FILES as FACTS
from innerpo.evaluation.facts import file_of, read_scores
from innerpo.evaluation.headline_files import OVERLAP, overlap_numbers
from innerpo.files import cache_root
from innerpo.sharing.bases import hub_id, is_local, name_of_base
from innerpo.sharing.card import SCORED_BEFORE, hub_card
from innerpo.sharing.clean import Cleaner, check_clean, last_parts, places_in
from innerpo.sharing.merge import check_mergeable, merge_run
from innerpo.sharing.names import ADAPTER, MODEL, PUSHED, RECORDS, TABLES, pushed_list
from innerpo.sharing.results import RESULTS, eval_results, results_of, scored_folder
from innerpo.training import artifacts
from innerpo.training.directions_file import DIRECTIONS
from innerpo.training.paths import CONFIG, RECORD

KEPT_HERE = ("genies_dir", "ethics_dir", "cache_dir", "output_dir")
"""Fields of a config that say where files lie here; others have their own."""


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
def packed(
    folder: Path, config: RunConfig, repo: str, merged: bool = False, revision: str | None = None
) -> Iterator[Package]:
    """Yield the files of a run as they are uploaded to a repository; those made for it vanish afterwards.

    ``merged``: the merged model in place of the adapter. ``revision``: the branch that its card names. Raises UserError
    where the folder holds nothing to share, and where a path of this machine or a secret would be uploaded.
    """
    artifacts.check_adapter(folder)
    if (folder / ADAPTER[0]).is_file() and not (folder / ADAPTER[1]).is_file() and not merged:
        raise UserError(f"{folder} holds no {ADAPTER[1]}; save the adapter as safetensors to push it")
    if not (folder / ADAPTER[0]).is_file() and not (folder / CONFIG).is_file():
        raise UserError(
            f"{folder} holds a whole model without the config of a run, so its base and data are unknown; push the run "
            "that it was merged from, as a merged model"
        )
    if merged:
        check_mergeable(folder, config)
    with TemporaryDirectory(prefix="innerpo-push-") as made:
        yield _pack(folder, config, repo, merged, revision, Path(made))


def _pack(folder: Path, config: RunConfig, repo: str, merged: bool, revision: str | None, made: Path) -> Package:
    scored, unshared = scored_folder(folder)
    held = (
        read_scores(scored).sets["dataset"].to_list() if file_of(scored, "responses") else []
    )  # a suite's file may name them
    cleaner = _cleaner(folder, config, held)
    whole = merged or not (folder / ADAPTER[0]).is_file()
    weights = folder
    if merged:
        weights = merge_run(folder, config, made / "merged").folder
    patterns = (*MODEL, *["*.py"] * config.model.trust_remote_code) if whole else ADAPTER
    files = {p.name: p for pattern in patterns for p in sorted(weights.glob(pattern)) if p.is_file()}
    of_model = set(files) if whole else set()
    files |= {name: folder / name for name in (*RECORDS, DIRECTIONS) if (folder / name).is_file()}
    files |= {name: scored / name for name in TABLES if (scored / name).is_file()}
    files |= {p.name: p for stem in FACTS.values() for p in sorted(scored.glob(f"{stem}.*")) if p.suffix in _FACTS}
    for name, path in files.items():
        if (write := _WRITERS.get(name, _WRITERS.get(path.suffix))) is not None and name != "tokenizer.json":
            write(path, made / name, cleaner.of_model() if name in of_model else cleaner)
            files[name] = made / name
    own, note = results_of(scored, label_of_folder(folder, config)), SCORED_BEFORE if merged else ""
    results = [replace(r, dataset=cleaner.value(r.dataset), note=note) for r in own]
    texts = eval_results(results) | {
        "README.md": hub_card(folder, config, results, (repo, revision), merged, cleaner, scored)
    }
    texts[PUSHED] = pushed_list([*files, *texts])
    for name, text in texts.items():
        files[name] = made / "texts" / name
        files[name].parent.mkdir(parents=True, exist_ok=True)
        files[name].write_text(text)
    named = {Path(place).parent for place in places_in([to_dict(config), held]) if Path(place).is_absolute()}
    check_clean(files, [folder.parent, cache_root(config.data.cache_dir), *named], folder)
    return Package(dict(sorted(files.items())), tuple(_notes(config, files, results, unshared)))


def _notes(config: RunConfig, files: dict[str, Path], results: Any, unshared: tuple[str, ...]) -> Iterator[str]:
    if not hub_id(config.model.base_model):
        base = name_of_base(config.model.base_model)
        yield f"the base model is a local folder: who loads this run must name it ({base!r} is all that is uploaded)"
    if unshared:
        yield f"scores in {', '.join(unshared)} are not uploaded"
    if "headline.md" not in files and not unshared:
        yield "the run was not scored: the card has no table"
    elif not results:
        yield "there are no accuracies at strength 1 to upload as results"
    elif not any(name.startswith(f"{RESULTS}/") for name in files):
        yield "no set that was scored is on the Hub, so there are no .eval_results; the card has the table"


def _cleaner(folder: Path, config: RunConfig, more: Sequence[str]) -> Cleaner:
    """Every absolute path in the run's records, and in ``more``, to its last part; the base to its name on the Hub."""
    held = [read_yaml(folder / name) for name in (CONFIG, RECORD, COMBINED, ADAPTER[0]) if (folder / name).is_file()]
    names = last_parts(places_in([*held, *more]))
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
    rows = (json.loads(line) for line in source.read_text().split("\n") if line)
    target.write_text("".join(json.dumps(cleaner.value(row)) + "\n" for row in rows))


def _overlap(source: Path, target: Path, cleaner: Cleaner) -> None:
    target.write_text(cleaner.text(overlap_numbers(source.read_text())))


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
    OVERLAP: _overlap,
}
"""How a file with an ending or a name is written again without this machine's paths; others go up as they are."""
