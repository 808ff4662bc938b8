"""Selections of pairs: functions of the seed and of each prompt or pair, not of the other pairs."""

import pytest

from innerpo.data.pairs import (
    PreferencePair,
    choose_negatives,
    cluster_of,
    shuffle_labels,
    shuffle_prompts,
    take_prompts,
)
from innerpo.errors import UserError

PAIRS = [
    PreferencePair(f"Q{i}", " yes", f" no {k}", f"s/{i}#{k}", "s", "train", cluster_of(f"Q{i}"))
    for i in range(200)
    for k in range(3)
]


def test_one_negative_per_prompt_and_chosen_response():
    kept = choose_negatives(PAIRS, "one", 0)
    assert [p.prompt for p in kept] == [f"Q{i}" for i in range(200)]
    assert {p.rejected for p in kept} == {" no 0", " no 1", " no 2"}
    assert choose_negatives(PAIRS, "one", 1) != kept
    assert choose_negatives(PAIRS[300:], "one", 0) == kept[100:]
    assert choose_negatives(PAIRS, "all", 0) == PAIRS


def test_prompts_are_taken_whole_and_in_order():
    kept = take_prompts(PAIRS, 10, 0)
    assert len(kept) == 30
    assert len({p.cluster for p in kept}) == 10
    assert kept == [p for p in PAIRS if p in kept]
    assert take_prompts(PAIRS, 10, 1) != kept
    assert take_prompts(PAIRS, 0, 0) == take_prompts(PAIRS, 999, 0) == PAIRS


def test_labels_are_swapped_by_seed_and_pair():
    swapped = shuffle_labels(PAIRS, 0.25, 0)
    share = sum(p.chosen != " yes" for p in swapped) / len(PAIRS)
    assert 0.18 < share < 0.32  # standard error .018
    assert all({p.chosen, p.rejected} == {q.chosen, q.rejected} for p, q in zip(swapped, PAIRS, strict=True))
    assert shuffle_labels(PAIRS[300:], 0.25, 0) == swapped[300:]
    assert shuffle_labels(PAIRS, 0.25, 1) != swapped
    assert shuffle_labels(PAIRS, 0.0, 0) == PAIRS
    assert all(p.rejected == " yes" for p in shuffle_labels(PAIRS, 1.0, 0))


@pytest.mark.parametrize("seed", range(5))
def test_shuffled_prompts_are_a_derangement_that_keeps_pairs_together(seed):
    rows = [
        PreferencePair(f"q{i // 2}", f"c{i}", f"r{i}", f"id{i}", "s", "train", cluster_of(f"q{i // 2}"))
        for i in range(10)
    ]
    found = shuffle_prompts(rows, seed)
    assert [(p.id, p.chosen, p.rejected) for p in found] == [(p.id, p.chosen, p.rejected) for p in rows]
    assert all(p.prompt != own.prompt and p.cluster == cluster_of(p.prompt) for p, own in zip(found, rows, strict=True))
    assert sorted(p.prompt for p in found) == sorted(p.prompt for p in rows)
    assert all(a.prompt == b.prompt for a, b in zip(found[0::2], found[1::2], strict=True))
    assert [p.prompt for p in shuffle_prompts(rows[0::2], seed)] == [p.prompt for p in found[0::2]]  # by prompts alone
    with pytest.raises(UserError, match="at least 2 prompts, got 1"):
        shuffle_prompts(rows[:2], seed)
