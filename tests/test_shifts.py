"""The table of shifts, compared with the published lists where these are available."""

import json
from pathlib import Path

import pytest

from innerpo.config.data import DataConfig
from innerpo.data.shifts import DistributionShift, default_target, genies_names, shifts_from, suites
from innerpo.data.sources import load_pairs, parse_name

GENIES = Path(__file__).parents[1].parent / "shared" / "data" / "genies"
KINDS = {
    "in-domain",
    "difficulty",
    "quality",
    "context",
    "skill",
    "encoding",
    "pretraining similarity",
    "spurious cue",
    "unwanted persona",
    "moral transfer",
    "random control",
}


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("math", "change_my_view"),
        ("genies:math", "change_my_view"),
        ("truthful_qa", "alpaca_mmlu"),
        ("math_easy", "math_hard"),
        ("code", "us_history"),
        ("embedded:compare", "embedded:compare_hard"),
        ("embedded:longer", "embedded:shorter"),
        ("owner/name", None),
    ],
)
def test_default_targets(source, target):
    assert default_target(source) == target


def test_kinds_are_the_words_of_the_design_and_no_shift_is_listed_twice():
    everything = [s for suite in suites().values() for s in suite]
    assert {s.kind for s in everything} <= KINDS
    assert len({(s.source, s.target) for s in everything}) == len(everything)
    assert {s.kind for s in suites()["embedded"]} == {
        "difficulty",
        "encoding",
        "spurious cue",
        "random control",
    }


def test_the_embedded_ends_exist():
    for shift in suites()["embedded"]:
        for name in filter(None, (shift.source, shift.target, shift.target_reference)):
            assert load_pairs(name, "test", DataConfig())


def test_every_listed_name_is_one_that_sources_know():
    for suite in suites().values():
        for shift in suite:
            assert parse_name(shift.source)[0] in ("genies", "ethics", "embedded")
    assert len(genies_names()) == 61


def test_shifts_from_lists_the_default_first():
    found = shifts_from("alpaca_short")
    assert found == [DistributionShift("alpaca_short", "alpaca_long", "spurious cue", "alpaca_mmlu")]
    assert len(shifts_from("alpaca_mmlu")) > 15


@pytest.mark.skipif(not GENIES.is_dir(), reason="no ../shared/data/genies")
def test_the_published_lists_are_here_in_full():
    def ends(rows):
        return {(r["source"], r["target"], r.get("target_reference")) for r in rows}

    def ours(name):
        return {(s.source, s.target, s.target_reference) for s in suites()[name]}

    benchmark = json.loads((GENIES / "GENIES.json").read_text())
    assert ours("genies") == ends(benchmark)
    assert ours("genies") | ours("genies_all") == ends(json.loads((GENIES / "all.json").read_text()))
    kinds = {(s.source, s.target): s.kind.replace(" ", "_").rstrip("s") for s in suites()["genies"]}
    assert kinds == {(r["source"], r["target"]): r["category"].rstrip("s") for r in benchmark}
