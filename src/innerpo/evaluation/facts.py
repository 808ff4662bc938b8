"""The facts of scoring as two data frames, one row per response and one row per pair, and their files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl
from polars.datatypes import DataTypeClass

from innerpo.errors import UserError
from innerpo.files import write_atomically

Format = Literal["parquet", "jsonl"]

RESPONSES: dict[str, DataTypeClass] = {
    "model": pl.String,  # base, the method's label, or "steered 2"
    "strength": pl.Float64,  # share of the adapter's update: 0 for the base, 1 for the policy as trained
    "set": pl.String,
    "dataset": pl.String,
    "split": pl.String,
    "prompt": pl.String,  # identity of the prompt: pairs that share one are a cluster
    "response": pl.Int64,  # index within the prompt
    "logp": pl.Float64,  # sum over completion tokens, nats
    "tokens": pl.Int64,  # completion tokens, with EOS
    "characters": pl.Int64,  # of the response as text
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

FILES = {"responses": "scores", "pairs": "pairs"}


@dataclass(frozen=True)
class Scores:
    """What was measured of each response, and which responses are compared.

    Raises UserError where columns are missing or a pair lacks a response of a model that was run on its set.
    """

    responses: pl.DataFrame
    pairs: pl.DataFrame

    def __post_init__(self) -> None:
        for name, frame, schema in (("responses", self.responses, RESPONSES), ("pairs", self.pairs, PAIRS)):
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
        """Write ``scores.FORMAT`` (responses) and ``pairs.FORMAT``; files of the other format are removed.

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
    formats: tuple[Format, ...] = ("parquet", "jsonl")
    for format in formats:
        if (folder / f"{FILES['responses']}.{format}").is_file():
            return Scores(
                _read(folder / f"{FILES['responses']}.{format}", RESPONSES),
                _read(folder / f"{FILES['pairs']}.{format}", PAIRS),
            )
    raise UserError(f"{folder} holds no scores.parquet and no scores.jsonl; evaluate the run to write them")


def combine(parts: list[Scores]) -> Scores:
    """Return the scores of several runs as one; of a model that occurs twice (the base) the first rows are kept."""
    responses = pl.concat([part.responses for part in parts])
    pairs = pl.concat([part.pairs for part in parts])
    return Scores(
        responses.unique(["model", "strength", "set", "prompt", "response"], keep="first", maintain_order=True),
        pairs.unique(["set", "pair"], keep="first", maintain_order=True),
    )


def _read(path: Path, schema: dict[str, DataTypeClass]) -> pl.DataFrame:
    try:
        frame = pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_ndjson(path, schema=schema)
        return frame.select(list(schema)).with_columns(pl.col(pl.Float64).fill_null(float("nan")))
    except (pl.exceptions.PolarsError, FileNotFoundError) as error:
        first = str(error).splitlines()[0]
        raise UserError(f"cannot read {path} as scores: {first}; evaluate the run to write it again") from error
