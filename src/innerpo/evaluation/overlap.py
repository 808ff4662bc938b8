"""Near-duplicate prompts between training data and what is scored: accuracy on them is not held out."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, UInt64
from scipy.sparse import csr_array

SHINGLE = 5
"""Characters of a shingle."""

OPERATORS = "*/%-"
"""Punctuation, as Unicode has it, in which two sums or two lines of code can differ."""

TEMPLATE = 0.5
"""A shingle in more than this share of all prompts belongs to their template and is not compared."""

FEW = 20
"""With fewer prompts than this nothing is taken for a template."""

SHOWN = 80
"""Characters of a prompt that are shown."""


@dataclass(frozen=True)
class NearDuplicate:
    """A training prompt and a target's prompt that are nearly the same: their indices, similarity and beginnings.

    The texts begin where they first differ from the template that most prompts share, with an ellipsis in front.
    """

    train: int
    target: int
    similarity: float
    train_text: str
    target_text: str


def near_duplicates(train: Sequence[str], target: Sequence[str], threshold: float = 0.8) -> list[NearDuplicate]:
    """Return all pairs of prompts whose similarity is at least the threshold, the most similar first.

    Similarity is the Jaccard index of the two sets of shingles (Broder 1997), computed exactly: the shingles of both
    over those of either. A shingle is 5 characters in a row of the text in lower case, without punctuation and with
    single spaces. Shingles that more than half of all prompts share (a template) are left out; a prompt that holds
    nothing else keeps them. Prompts that are equal have the similarity 1.
    """
    if not train or not target:
        return []
    texts = [*train, *target]
    index = _index([normalised(text) for text in texts])
    own, other = index.matrix[: len(train)], index.matrix[len(train) :]
    shared = (own @ other.T).tocoo()
    sizes = np.asarray(index.matrix.sum(axis=1)).ravel()
    rows, columns = shared.coords
    similarity = shared.data / (sizes[rows] + sizes[len(train) + columns] - shared.data)
    kept = np.flatnonzero(similarity >= threshold)
    order = kept[np.lexsort((columns[kept], rows[kept], -similarity[kept]))]
    named = {*rows[order].tolist(), *(len(train) + columns[order]).tolist()}
    shown = {i: _beginning(texts[i], index.first_rare(i)) for i in named}
    return [
        NearDuplicate(int(a), int(b), float(s), shown[int(a)], shown[len(train) + int(b)])
        for a, b, s in zip(rows[order], columns[order], similarity[order], strict=True)
    ]


def normalised(text: str) -> str:
    """Return the text in lower case without punctuation and with single spaces; operators and symbols stay."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(folded.translate(_SPACED).split())


def _counts(character: str) -> bool:
    """Whether a character tells texts apart: letters, marks, digits, symbols (signs of sums, emoji), operators."""
    return unicodedata.category(character)[0] in "LMNS" or character in OPERATORS


class _Spaced(dict[int, int]):
    """For ``str.translate``: a space in the place of what does not count; each character is looked up once."""

    def __missing__(self, code: int) -> int:
        self[code] = code if _counts(chr(code)) else ord(" ")
        return self[code]


_SPACED = _Spaced()


@dataclass(frozen=True)
class _Index:
    """Normalised texts, the hashes of all their shingles, and 1 where a text (row) counts a shingle (column)."""

    texts: Sequence[str]
    hashes: UInt64[np.ndarray, " shingle"]
    matrix: csr_array

    def first_rare(self, i: int) -> int:
        """Return how many characters, spaces apart, stand in front of the first shingle that counts."""
        own = self.hashes[self.matrix.indices[self.matrix.indptr[i] : self.matrix.indptr[i + 1]]]
        start = int(np.isin(_shingles(self.texts[i]), own).argmax())
        return len(self.texts[i][:start].replace(" ", ""))


def _index(texts: Sequence[str]) -> _Index:
    found = [np.unique(_shingles(text)) for text in texts]
    lengths = np.array([len(ids) for ids in found])
    hashes, columns, counts = np.unique(np.concatenate(found), return_inverse=True, return_counts=True)
    rows = np.repeat(np.arange(len(texts)), lengths)
    if len(texts) >= FEW:
        kept = _without_template(rows, columns, counts / len(texts), len(texts))
        rows, columns = rows[kept], columns[kept]
    ones = np.ones(len(rows), dtype=np.float32)
    return _Index(texts, hashes, csr_array((ones, (rows, columns)), shape=(len(texts), len(counts))))


def _beginning(text: str, skipped: int) -> str:
    """The characters of a text behind so many that count, from the beginning of a word, on one line."""
    line = " ".join(unicodedata.normalize("NFKC", text).split())
    start = seen = 0
    while start < len(line) and seen < skipped:
        seen += _counts(line[start])
        start += 1
    start = line.rfind(" ", 0, start + 1) + 1 if skipped else 0
    end = start + SHOWN - (start > 0)
    shown = ("…" if start else "") + line[start:end]
    return shown if end >= len(line) else shown[:-1] + "…"


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
