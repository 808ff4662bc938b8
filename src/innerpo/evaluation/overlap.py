"""Near-duplicate prompts between training data and what is scored: accuracy on them is not held out."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, UInt64
from scipy.sparse import csr_array

SHINGLE = 5
"""Characters of a shingle."""

TEMPLATE = 0.5
"""A shingle in more than this share of all prompts belongs to their template and is not compared."""

FEW = 20
"""With fewer prompts than this nothing is taken for a template."""

SHOWN = 80
"""Characters of a prompt that are shown."""


@dataclass(frozen=True)
class NearDuplicate:
    """A training prompt and a target's prompt that are nearly the same: their indices, similarity and beginnings."""

    train: int
    target: int
    similarity: float
    train_text: str
    target_text: str


def near_duplicates(train: Sequence[str], target: Sequence[str], threshold: float = 0.8) -> list[NearDuplicate]:
    """Return all pairs of prompts whose similarity is at least the threshold, the most similar first.

    Similarity is the Jaccard index of the two sets of shingles (Broder 1997), computed exactly: the shingles of both
    over those of either. A shingle is 5 characters in a row of the text in lower case, with everything but letters and
    digits as single spaces. Shingles that more than half of all prompts share (a template) are left out; a prompt that
    holds nothing else keeps them. Prompts that are equal have the similarity 1.
    """
    if not train or not target:
        return []
    every = [normalised(text) for text in (*train, *target)]
    matrix = _shingle_matrix(every)
    own, other = matrix[: len(train)], matrix[len(train) :]
    shared = (own @ other.T).tocoo()
    sizes = np.asarray(matrix.sum(axis=1)).ravel()
    rows, columns = shared.coords
    union = sizes[rows] + sizes[len(train) + columns] - shared.data
    similarity = shared.data / union
    kept = np.flatnonzero(similarity >= threshold)
    order = kept[np.lexsort((columns[kept], rows[kept], -similarity[kept]))]
    return [
        NearDuplicate(int(a), int(b), float(s), beginning(train[a]), beginning(target[b]))
        for a, b, s in zip(rows[order], columns[order], similarity[order], strict=True)
    ]


def normalised(text: str) -> str:
    """Lower case, letters and digits only, runs of all else as one space."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join("".join(c if c.isalnum() else " " for c in folded).split())


def beginning(text: str) -> str:
    """The first characters of a text on one line."""
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else line[: SHOWN - 1] + "…"


def _shingle_matrix(texts: Sequence[str]) -> csr_array:
    """1 where a text (row) holds a shingle (column)."""
    found = [np.unique(_shingles(text)) for text in texts]
    lengths = np.array([len(ids) for ids in found])
    _, columns, counts = np.unique(np.concatenate(found), return_inverse=True, return_counts=True)
    rows = np.repeat(np.arange(len(texts)), lengths)
    if len(texts) >= FEW:
        kept = _without_template(rows, columns, counts / len(texts), len(texts))
        rows, columns = rows[kept], columns[kept]
    ones = np.ones(len(rows), dtype=np.float32)
    return csr_array((ones, (rows, columns)), shape=(len(texts), len(counts)))


def _without_template(
    rows: Int[np.ndarray, " entry"], columns: Int[np.ndarray, " entry"], share: np.ndarray, n_texts: int
) -> np.ndarray:
    """Which entries to keep: those of rare shingles, and all of a text that holds no rare one."""
    rare = share[columns] <= TEMPLATE
    bare = np.bincount(rows, weights=rare, minlength=n_texts) == 0
    return np.asarray(rare | bare[rows])


def _shingles(text: str) -> UInt64[np.ndarray, " shingle"]:
    """A 64-bit hash of every 5 characters in a row, of the whole text where it is shorter."""
    codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)
    if len(codes) == 0:
        return np.zeros(1, dtype=np.uint64)
    windows = np.lib.stride_tricks.sliding_window_view(codes, min(SHINGLE, len(codes)))
    weights = np.power(np.uint64(0x9E3779B97F4A7C15), np.arange(1, windows.shape[1] + 1, dtype=np.uint64))
    mixed = (windows * weights).sum(axis=1, dtype=np.uint64)
    return np.asarray((mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9))
