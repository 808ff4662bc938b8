"""Tables of the screen: one shift of several from one source, the best control, and who passes."""

import json
from dataclasses import replace

import pytest

from innerpo.evaluation.statistics import UNKNOWN
from innerpo.evaluation.study import read_study
from studies import tables
from studies.planned import mean_gain, of_shift
from studies.screen import table as screen
from study_helpers import config_of, right, run_of, scores_of, write_run

TWO = {"test": ("toy", "test", "test"), "oos": ("other", "test", "oos")}


def gain(mean, se=0.004):
    """An estimate with 10 degrees of freedom."""
    half = 2.2281 * se
    return replace(UNKNOWN, mean=mean, low=mean - half, high=mean + half, se=se, df=10.0)


def run_named(root, method, seed, oos):
    """A run with its row of tables, as a sweep leaves it."""
    run = run_of(root, method, seed, (1, 1, 1, 0), oos, (1, 1, 0, 0), (0, 0, 1, 1))
    (run / "sweep.json").write_text(json.dumps({"row": method}))
    return run


def scored_on_other(run, method, seed, oos, base_oos=(0, 0, 1, 1)):
    """Scores of a run on a second target, in the folder beneath it where they belong."""
    models = {
        ("base", 0.0): {"test": right(1, 1, 0, 0), "oos": right(*base_oos)},
        (config_of(method, seed).method_label, 1.0): {"test": right(1, 1, 1, 0), "oos": right(*oos)},
    }
    write_run(run / "eval-0123abcd", scores_of(models, TWO))


@pytest.fixture
def two_targets(tmp_path):
    """dpo and residual on two targets of one source, two seeds each; of the second target dpo has one seed."""
    for method, outcomes in (("dpo", (0, 0, 0, 1)), ("residual", (1, 0, 1, 1))):
        for seed in (1, 2):
            run = run_named(tmp_path, method, seed, outcomes)
            if (method, seed) != ("dpo", 2):
                scored_on_other(run, method, seed, outcomes[::-1])
    return read_study(tmp_path)


def test_a_shift_of_a_source_with_two_targets(two_targets):
    for target, seeds in (("far", {"dpo": 2, "residual": 2}), ("other", {"dpo": 1, "residual": 2})):
        own = of_shift(two_targets, "toy", target)
        assert set(own.sets.filter(role="oos")["dataset"]) == {target}
        assert set(own.responses.filter(set="oos")["dataset"]) == {target}
        text = tables.shift_table(own, "toy", ["dpo", "residual"], {}, "dpo")
        found = {row[0]: row[1:] for row in (line.strip("| ").split(" | ") for line in text.splitlines()) if row[1:]}
        assert {name: int(found[f"{name} x 1"][0]) for name in seeds} == seeds
        assert [found[f"{name} x 1"][2][:5] for name in seeds] == ["0.250", "0.750"]
    assert len(of_shift(two_targets, "elsewhere", "far").runs) == 0


def test_a_mean_needs_both(two_targets):
    assert mean_gain(two_targets, "residual", "dpo").mean > 0.0
    for method, baseline in (("dpo", "dpo"), ("residual", "ipo"), ("ipo", "dpo"), ("residual", "")):
        assert mean_gain(two_targets, method, baseline) == UNKNOWN


@pytest.mark.parametrize(
    ("over_dpo", "over_control", "p", "said"),
    [
        (gain(0.05), gain(0.04), (0.01, 0.04), "passes"),
        (gain(0.05), gain(0.04), (0.01, 0.06), "undecided"),  # its interval ends at .049, above .02
        (gain(0.05), gain(0.0), (0.01, 1.0), "fails"),  # at .009
        (gain(-0.05), gain(0.05), (0.01, 0.01), "fails"),
        (gain(0.0, 0.02), gain(0.0, 0.02), (1.0, 1.0), "undecided"),
        (gain(0.05), UNKNOWN, (0.01, float("nan")), "undecided"),
        (gain(0.0), UNKNOWN, (1.0, float("nan")), "fails"),
        (UNKNOWN, UNKNOWN, (float("nan"), float("nan")), "undecided"),
    ],
)
def test_who_passes(over_dpo, over_control, p, said):
    assert screen.verdict(over_dpo, over_control, p) == said


def test_a_candidate_stands_against_its_best_control(monkeypatch):
    """Of two controls the one over which it gains less; p values are corrected over all gains of a block."""
    monkeypatch.setattr(screen, "CONTROLS", {"a": ("a1", "a2"), "b": ("b1",), "c": ("c1", "c2")})
    known = {("a", "dpo"): gain(0.05), ("a", "a1"): gain(0.06), ("a", "a2"): gain(0.04)}
    # t = 2.5: p = .0314 alone, .063 as the largest of three with another below it
    known |= {("b", "dpo"): gain(0.05), ("b", "b1"): gain(0.01, 0.004)}
    known |= {("c", "dpo"): gain(0.01), ("c", "c1"): gain(0.0)}  # c2 was not scored
    rows = screen.block("here", ["a", "b", "c"], lambda m, b: known.get((m, b), UNKNOWN))
    assert [(row[1], row[3], row[5]) for row in rows] == [
        ("a", "a2", "passes"),
        ("b", "b1", "fails"),  # less than .02 over its control, whatever its p
        ("c", "", "fails"),
    ]
    assert rows[0][4] == "+0.040 [+0.031, +0.049]"
    assert rows[2][4] == ""
    assert {row[0] for row in rows} == {"here"}


def test_every_candidate_and_control_is_a_row_of_the_study():
    assert {*screen.CONTROLS, *(control for found in screen.CONTROLS.values() for control in found)} <= {
        *screen.methods()
    }
    assert len(screen.shifts()) == 5
    assert ("alpaca_mmlu", "ranking_logic") in screen.shifts()


def test_means_are_over_shifts_on_which_the_controls_were_scored(tmp_path, monkeypatch):
    """Two targets of toy; ``residual`` has its control on both, ``innerpo`` lacks it on the second."""
    monkeypatch.setattr(screen, "CONTROLS", {"residual": ("residual-permuted",), "innerpo": ("drift-only",)})
    monkeypatch.setattr(screen, "shifts", lambda: [("toy", "far"), ("toy", "other")])
    for method in ("dpo", "residual", "residual-permuted", "innerpo", "drift-only"):
        outcomes = (1, 0, 1, 1) if method == "residual" else (0, 0, 0, 1)
        for seed in (1, 2):
            run = run_named(tmp_path, method, seed, outcomes)
            if method != "drift-only":
                scored_on_other(run, method, seed, outcomes)
    study = read_study(tmp_path)
    lines = [line.strip("| \n").split(" | ") for line in screen.verdicts(study).splitlines()[2:]]
    assert not any(said in row for row in lines for said in ("passes", "fails", "undecided"))  # two seeds of three
    monkeypatch.setattr(screen, "n_seeds", lambda: 2)
    judged = [line.split("|")[-2].strip() for line in screen.verdicts(study).splitlines()[2:]]
    assert set(judged) <= {"passes", "fails", "undecided", ""}
    assert judged[0] != ""
    assert judged[3] == ""  # innerpo on the second target, without its control
    assert [(row[0], row[1]) for row in lines] == [
        *(
            ("toy -> far", "residual"),
            ("toy -> far", "innerpo"),
            ("toy -> other", "residual"),
            ("toy -> other", "innerpo"),
        ),
        ("mean of 2 shifts", "residual"),
    ]
