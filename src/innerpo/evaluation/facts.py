"""The facts of scoring as data frames, one row per response, per pair and per evaluation set, and their files."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import polars as pl
from polars.datatypes import DataTypeClass

from innerpo.errors import UserError, first_line
from innerpo.files import write_atomically

Format = Literal["parquet", "jsonl"]

RESPONSES: dict[str, DataTypeClass] = {
    "model": pl.String,  # base, the method's label, or "steered 2"
    "strength": pl.Float64,  # factor on the adapter's update: 0 for the base, 1 for the policy as trained
    "reference": pl.String,  # fingerprint of the base model, the same for its own rows and those of its policies
    "set": pl.String,
    "dataset": pl.String,
    "split": pl.String,
    "prompt": pl.String,  # identity of the prompt: pairs that share one are a cluster
    "response": pl.Int64,  # index within the prompt
    "logp": pl.Float64,  # sum over completion tokens, nats
    "tokens": pl.Int64,  # completion tokens, with EOS
    "characters": pl.Int64,  # of the response as text, as far as its tokens go
    "inner": pl.Float64,  # inner reward; NaN where there are no directions
    "abs_log_ratio": pl.Float64,  # sum over completion tokens of |log pi - log pi_ref|, nats; NaN where unknown
}

PAIRS: dict[str, DataTypeClass] = {
    "set": pl.String,
    "pair": pl.String,
    "prompt": pl.String,
    "chosen": pl.Int64,  # index of the better response within the prompt
    "rejected": pl.Int64,
}

SETS: dict[str, DataTypeClass] = {
    "set": pl.String,
    "dataset": pl.String,
    "split": pl.String,
    "role": pl.String,  # train, test, oos, rnd, extra
    "kind": pl.String,  # kind of shift from the training set; empty where it is unknown
    "target_reference": pl.String,  # the set that is like this one without its difficulty; empty where there is none
    "pairs": pl.Int64,
    "prompts": pl.Int64,
    "seen": pl.Int64,  # prompts that are training prompts too
    "near": pl.Int64,  # prompts that nearly repeat a training prompt, those seen among them; -1 where nobody looked
    "note": pl.String,  # why the set is empty; empty where it is not
}

SCHEMAS = {"responses": RESPONSES, "pairs": PAIRS, "sets": SETS}
FILES = {"responses": "scores", "pairs": "pairs", "sets": "sets"}


def _no_sets() -> pl.DataFrame:
    return pl.DataFrame(schema=SETS)


@dataclass(frozen=True)
class Scores:
    """What was measured of each response, which responses are compared, and what the evaluation sets are.

    Raises UserError where columns are missing or a pair lacks a response of a model that was run on its set.
    """

    responses: pl.DataFrame
    pairs: pl.DataFrame
    sets: pl.DataFrame = field(default_factory=_no_sets)

    def __post_init__(self) -> None:
        for name, schema in SCHEMAS.items():
            frame: pl.DataFrame = getattr(self, name)
            if dict(frame.schema) != schema:
                raise UserError(f"the {name} have the columns {dict(frame.schema)}, not {schema}")
        models = self.responses.select("model", "strength", "set").unique(maintain_order=True)
        wanted = models.join(self.pairs, on="set", maintain_order="left_right")
        keys = ["model", "strength", "set", "prompt", "response"]
        for side in ("chosen", "rejected"):
            lacking = wanted.with_columns(response=side).join(self.responses, on=keys, how="anti")
            if len(lacking):
                row = lacking.row(0, named=True)
                raise UserError(f"pair {row['pair']} of {row['set']} lacks its {side} response by {row['model']}")

    def write(self, folder: Path, format: Format = "parquet") -> None:
        """Write ``scores.FORMAT`` (responses), ``pairs.FORMAT`` and ``sets.FORMAT``; those of the other format go.

        NaN stays NaN in parquet and is null in jsonl.
        """
        for name, stem in FILES.items():
            frame: pl.DataFrame = getattr(self, name)
            write = frame.write_parquet if format == "parquet" else frame.write_ndjson
            write_atomically(folder / f"{stem}.{format}", write)
            other = "jsonl" if format == "parquet" else "parquet"
            (folder / f"{stem}.{other}").unlink(missing_ok=True)


def read_scores(folder: Path) -> Scores:
    """Return the scores that a folder holds. Raises UserError where there are none or they are of another form."""
    responses = file_of(folder, "responses")
    if responses is None:
        raise UserError(f"{folder} holds no scores.parquet and no scores.jsonl; evaluate the run to write them")
    kind = responses.suffix
    return Scores(*(_read(folder / f"{FILES[name]}{kind}", schema) for name, schema in SCHEMAS.items()))


def file_of(folder: Path, name: str) -> Path | None:
    """Return the file of responses, pairs or sets in a folder; None where there is none."""
    paths = [folder / f"{FILES[name]}.{format}" for format in ("parquet", "jsonl")]
    return next((path for path in paths if path.is_file()), None)


def distinct(folder: Path, name: str, *columns: str) -> pl.DataFrame:
    """Return the different rows of some columns of a folder's responses, pairs or sets; none where there is no file.

    Raises UserError where it cannot be read.
    """
    path = file_of(folder, name)
    if path is None:
        return pl.DataFrame(schema=columns)
    scan = pl.scan_parquet if path.suffix == ".parquet" else pl.scan_ndjson
    try:
        return scan(path).select(*columns).unique().collect()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UserError(f"cannot read {path} as scores: {first_line(error)}") from error


def combine(parts: list[Scores]) -> Scores:
    """Return the scores of several runs as one; of a model that occurs twice (the base) the first rows are kept.

    Raises UserError where the rows named base are of different base models.
    """
    responses = pl.concat([part.responses for part in parts])
    bases = responses.filter(pl.col("model") == "base")["reference"].unique().to_list()
    if len(bases) > 1:
        raise UserError(f"the scores are of {len(bases)} base models (fingerprints {', '.join(sorted(bases))})")
    pairs, sets = (pl.concat([getattr(part, name) for part in parts]) for name in ("pairs", "sets"))
    return Scores(
        responses.unique(["model", "strength", "set", "prompt", "response"], keep="first", maintain_order=True),
        pairs.unique(["set", "pair"], keep="first", maintain_order=True),
        sets.unique(["set"], keep="first", maintain_order=True),
    )


def _read(path: Path, schema: dict[str, DataTypeClass]) -> pl.DataFrame:
    try:
        frame = pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_ndjson(path, schema=schema)
        return frame.select(list(schema)).with_columns(pl.col(pl.Float64).fill_null(float("nan")))
    except (pl.exceptions.PolarsError, OSError) as error:
        first = first_line(error)
        raise UserError(f"cannot read {path} as scores: {first}; evaluate the run to write it again") from error
