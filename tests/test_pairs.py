"""Selections of pairs: functions of the seed and of each prompt or pair, not of the other pairs."""

from innerpo.data.pairs import PreferencePair, choose_negatives, cluster_of, shuffle_labels, take_prompts

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
