"""Embedded data: deterministic, disjoint splits, and the cue that each name promises."""

import random
import re

import pytest

from innerpo.config.data import DataConfig
from innerpo.data.shifts import shifts_from
from innerpo.data.sources import load_pairs
from innerpo.data.sources.embedded import DISTRIBUTIONS, SIZES
from innerpo.errors import UserError

NAMES = sorted(DISTRIBUTIONS)
NUMERIC = [n for n in NAMES if n != "control"]


def pairs_of(name, split, seed=0):
    return load_pairs(f"embedded:{name}", split, DataConfig(seed=seed))


def numbers(text):
    return [int(n) for n in re.findall(r"\d+", text)]


@pytest.mark.parametrize("name", NAMES)
def test_sizes_ids_and_determinism(name):
    for split, size in SIZES.items():
        random.seed(1)
        pairs = pairs_of(name, split)
        random.seed(2)
        assert pairs == pairs_of(name, split)
        assert len(pairs) == len({p.id for p in pairs}) == len({p.cluster for p in pairs}) == size
        other = pairs_of(name, split, seed=1)
        assert (pairs == other) == (split == "test")  # runs of all data seeds are scored on the same pairs


def test_one_known_pair_so_that_no_change_goes_unseen():
    pair = pairs_of("compare", "train")[0]
    assert pair.prompt == "Which number is larger, 89 or 70?\nAnswer:"
    assert (pair.chosen, pair.rejected) == (" 89.", " 70.")


@pytest.mark.parametrize("name", NUMERIC)
def test_the_chosen_number_is_the_larger_of_the_two_asked(name):
    for pair in pairs_of(name, "train") + pairs_of(name, "test"):
        asked = numbers(pair.prompt)
        assert numbers(pair.chosen) == [max(asked)]
        assert numbers(pair.rejected) == [min(asked)]
        digits = 3 if name == "compare_hard" else 2
        assert all(len(str(n)) == digits for n in asked)


@pytest.mark.parametrize("name", NUMERIC)
def test_the_place_in_the_question_gives_nothing_away(name):
    pairs = pairs_of(name, "train")
    first = sum(numbers(p.prompt)[0] > numbers(p.prompt)[1] for p in pairs) / len(pairs)
    assert 0.35 < first < 0.65


def test_longer_wins_in_the_source_and_loses_in_the_target():
    for split in SIZES:
        assert all(len(p.chosen) > len(p.rejected) for p in pairs_of("longer", split))
        assert all(len(p.chosen) < len(p.rejected) for p in pairs_of("shorter", split))
        for name in ("compare", "compare_hard", "compare_format"):
            assert all(len(p.chosen) == len(p.rejected) for p in pairs_of(name, split))


@pytest.mark.parametrize("seeds", [(0, 0), (0, 7)])
def test_no_test_fact_was_a_training_fact_of_any_distribution(seeds):
    facts = {
        split: {tuple(sorted(numbers(p.prompt))) for n in NUMERIC for p in pairs_of(n, split, seed)}
        for split, seed in zip(SIZES, seeds, strict=True)
    }
    assert not facts["train"] & facts["test"]
    prompts = [{p.prompt for p in pairs_of("control", split, seed)} for split, seed in zip(SIZES, seeds, strict=True)]
    assert not prompts[0] & prompts[1]


def test_control_agrees_with_the_first_noun_and_not_the_last():
    for pair in pairs_of("control", "test"):
        words = pair.prompt.split()
        assert words[1].endswith("s") != words[-1].endswith("s")
        assert pair.chosen.split()[0] == ("are" if words[1].endswith("s") else "is")


# -- the cue bench -------------------------------------------------------------------------------------------------


def has_cue(text):
    return text.endswith("is the larger number.") or text.startswith(" Clearly")


def right(pair):
    """Whether the chosen answer names the larger number."""
    a, b = (int(n) for n in re.findall(r"\d+", pair.prompt))
    return str(max(a, b)) in pair.chosen


@pytest.mark.parametrize("cue", ["cue", "marker"])
def test_the_cue_agrees_in_exactly_the_fraction_asked_for(cue):
    data = DataConfig()
    train, test = (load_pairs(f"embedded:{cue}", split, data) for split in ("train", "test"))
    assert (len(train), len(test)) == (192, 64)
    assert sum(has_cue(p.chosen) for p in train) == round(0.95 * 192)
    assert all(has_cue(p.chosen) != has_cue(p.rejected) for p in train + test)
    assert all(has_cue(p.chosen) for p in test)
    assert not any(has_cue(p.chosen) for p in load_pairs(f"embedded:{cue}_reversed", "test", data))
    assert sum(has_cue(p.chosen) for p in load_pairs(f"embedded:{cue}_half", "test", data)) == 32
    assert all(right(p) for p in train + test)
    few = load_pairs(f"embedded:{cue}(rho=.8,noise=.05)", "train", data)
    assert sum(not right(p) for p in few) == round(0.05 * 192)
    assert sum(has_cue(p.chosen) == right(p) for p in few) == round(0.8 * 192)
    clean = load_pairs(f"embedded:{cue}(rho=.8,noise=.05)", "test", data)
    assert [(p.prompt, p.chosen) for p in clean] == [(p.prompt, p.chosen) for p in test]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("cue(rho=2)", r"'rho=2' in embedded:cue\(rho=2\) is no option of it: embedded:cue has rho and noise"),
        ("cue(roh=.5)", "'roh=.5' in"),
        ("cue(rho=half)", "'rho=half' in"),
        ("cue(rho=.5", "unknown embedded data set"),
        ("cue_half(rho=.5)", "embedded:cue_half has no options"),
        ("compare(rho=.5)", "embedded:compare has no options"),
        ("cues", "did you mean 'cue'"),
    ],
)
def test_options_that_do_not_exist(name, says):
    with pytest.raises(UserError, match=says):
        load_pairs(f"embedded:{name}", "train", DataConfig())


def test_options_in_a_name_keep_its_shifts():
    assert [s.target for s in shifts_from("embedded:cue(rho=.8)")] == ["embedded:cue_reversed", "embedded:compare"]
