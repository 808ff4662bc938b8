"""Near-duplicate prompts: similarity by hand, templates, and its speed."""

import random
import time

import pytest

from innerpo.evaluation.overlap import near_duplicates, normalised


def jaccard(a, b, n=5):
    """The definition, as sets of Python strings."""
    one, other = ({t[i : i + n] for i in range(max(1, len(t) - n + 1))} for t in (normalised(a), normalised(b)))
    return len(one & other) / len(one | other)


def test_similarity_by_hand():
    """abcdef has the shingles abcde, bcdef; abcdeg has abcde, bcdeg: one of three is shared."""
    (found,) = near_duplicates(["abcdef"], ["abcdeg"], threshold=0.1)
    assert found.similarity == pytest.approx(1 / 3)
    assert (found.train, found.target, found.train_text, found.target_text) == (0, 0, "abcdef", "abcdeg")


def test_case_spaces_and_punctuation_do_not_count():
    (found,) = near_duplicates(["other", "What is:  2 + 2?"], ["what IS 2 + 2"])
    assert (found.train, found.similarity) == (1, 1.0)
    assert near_duplicates(["What is 2 + 2?"], ["What is 3 + 5?"]) == []


@pytest.mark.parametrize(("a", "b"), [("7 * 8", "7 + 8"), ("6 / 2", "6 - 2"), ("🔴 over 🔵", "🔵 over 🔴")])
def test_signs_that_tell_texts_apart_count(a, b):
    assert near_duplicates([a], [b]) == []
    assert near_duplicates([a], [a])[0].similarity == 1.0


def test_random_texts_against_the_definition():
    source = random.Random(0)
    words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta"]
    train, target = ([" ".join(source.choices(words, k=5)) for _ in range(9)] for _ in range(2))
    found = {(d.train, d.target): d.similarity for d in near_duplicates(train, target, threshold=0.3)}
    wanted = {(i, j): jaccard(a, b) for i, a in enumerate(train) for j, b in enumerate(target)}
    assert found == {k: pytest.approx(v, abs=1e-6) for k, v in wanted.items() if v >= 0.3}
    assert len(found) > 3
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_a_template_is_not_a_duplicate():
    """Ten words that all prompts share say nothing; one that is all template is compared by it."""
    template = "Answer the following question as well as you possibly can please: "
    source = random.Random(1)
    things = ["".join(source.choices("abcdefghijklmnopqrstuvwxyz", k=9)) for _ in range(40)]
    prompts = [template + thing for thing in things]
    assert jaccard(prompts[0], prompts[1]) > 0.6
    found = near_duplicates(prompts[:20], [*prompts[20:], prompts[3]], threshold=0.5)
    assert [(d.train, d.target, d.similarity) for d in found] == [(3, 20, 1.0)]
    assert found[0].train_text == found[0].target_text == f"…please: {things[3]}"
    found = near_duplicates([*prompts[:20], template], [*prompts[20:], template], threshold=0.9)
    assert [(d.train, d.target) for d in found] == [(20, 20)]


def test_empty_and_short_texts():
    assert near_duplicates([], ["a"]) == []
    assert near_duplicates(["a"], []) == []
    assert [(d.train, d.target) for d in near_duplicates(["", "ab"], ["ab", "?!"])] == [(0, 1), (1, 0)]


def test_long_texts_show_their_beginning():
    (found,) = near_duplicates(["word " * 40], ["word " * 40])
    assert len(found.train_text) == 80
    assert found.train_text.endswith("…")


def test_432_by_250_prompts_take_less_than_a_second():
    source = random.Random(2)
    words = ["".join(source.choices("abcdefghijklmnop", k=6)) for _ in range(2000)]
    prompts = ["Instruction: " + " ".join(source.choices(words, k=60)) for _ in range(682)]
    prompts[500] = prompts[3][:-1]
    start = time.process_time()
    found = near_duplicates(prompts[:432], prompts[432:])
    assert time.process_time() - start < 1.0
    assert [(d.train, d.target + 432) for d in found] == [(3, 500)]
