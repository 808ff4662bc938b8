"""Comparisons of two methods and curves over strengths: pairing, tests, verdicts, gains."""

import json
import math
import random

import numpy as np
import pytest
from scipy import stats

import innerpo
from innerpo.cli.verbs import main
from innerpo.errors import UserError
from innerpo.evaluation.comparison import compare_rows
from innerpo.evaluation.curve_text import curve_text, gain_text, render_curves
from innerpo.evaluation.curves import Curve, curves, gains, suite_gains
from innerpo.evaluation.formats import render_comparison
from innerpo.evaluation.study import read_study
from study_helpers import DEFAULT_SETS, config_of, right, run_of, scores_of, write_run

HALF = (1, 0) * 20


def runs(root, method, tests, oos=HALF, **options):
    """Write one run per seed with these outcomes on test; return the pattern that finds them."""
    for seed, test in enumerate(tests, 1):
        run_of(root, method, seed, test, oos, base_test=HALF, base_oos=HALF, **options)
    return str(root / f"{method}*")


def column(found, name):
    return next(d for d in found.differences if d.column.name == name)


def test_one_seed_is_compared_by_prompts(tmp_path):
    """a is right where b is on 30 prompts, and on all of the other 10 too: a difference of 1/4."""
    b_test = (1,) * 30 + (0,) * 10
    found = innerpo.compare(runs(tmp_path, "dpo", [(1,) * 40]), runs(tmp_path, "ipo", [b_test]))
    test = column(found, "test")
    assert (test.a.mean, test.b.mean, test.difference.mean) == (1.0, 0.75, 0.25)
    assert test.difference.level == "prompts"
    assert test.p == pytest.approx(stats.ttest_1samp(np.array([0.0] * 30 + [1.0] * 10), 0).pvalue, rel=0.2)
    assert test.p_mcnemar == pytest.approx(2 * 0.5**10)  # ten discordant pairs, all for a
    assert test.p_sign_flip == pytest.approx(2 * 0.5**10)
    assert test.p_holm == pytest.approx(2 * test.p)
    assert found.verdict(test) == "dpo is better"
    assert "seeds are not covered: one seed" in found.notes


def test_no_difference_found_says_what_would_have_been(tmp_path):
    found = innerpo.compare(runs(tmp_path, "dpo", [HALF]), runs(tmp_path, "ipo", [(0, 1) * 3 + HALF[6:]]))
    test = column(found, "test")
    assert test.difference.mean == 0.0
    assert not test.found
    assert found.verdict(test) == f"no difference found (one of {test.detectable:.3f} would be in 80 % of repeats)"
    assert 0.05 < test.detectable < 0.5
    assert found.winners["mean_logp"] == {"test": "=", "oos": "="}


def test_several_seeds_are_compared_over_seeds_and_prompts(tmp_path):
    rng = random.Random(0)
    draw = lambda p: tuple(int(rng.random() < p) for _ in range(40))  # noqa: E731
    a, b = [draw(0.9) for _ in range(3)], [draw(0.5) for _ in range(3)]
    found = innerpo.compare(runs(tmp_path, "dpo", a), runs(tmp_path, "ipo", b))
    test = column(found, "test")
    assert test.difference.mean == pytest.approx(np.mean(a) - np.mean(b))
    assert (test.difference.level, test.difference.seeds) == ("seeds x prompts", 3)
    assert math.isnan(test.p_mcnemar)
    assert (found.seeds_a, found.seeds_b) == ((1, 2, 3), (1, 2, 3))
    assert not any("one seed" in note for note in found.notes)


def test_differences_are_a_less_b(tmp_path):
    a, b = runs(tmp_path, "dpo", [(1,) * 40]), runs(tmp_path, "ipo", [HALF])
    one, other = innerpo.compare(a, b), innerpo.compare(b, a)
    for d, e in zip(one.differences, other.differences, strict=True):
        assert d.difference.mean == -e.difference.mean
        assert d.difference.low == pytest.approx(-e.difference.high)
        assert (d.p, d.p_mcnemar, d.p_sign_flip) == (e.p, e.p_mcnemar, e.p_sign_flip)


def test_seeds_of_one_method_are_named_by_their_runs(tmp_path):
    runs(tmp_path, "dpo", [HALF, (1,) * 40])
    found = innerpo.compare(tmp_path / "dpo_toy_seed2", tmp_path / "dpo_toy_seed1")
    assert (found.a, found.b) == ("dpo_toy_seed2", "dpo_toy_seed1")
    assert "the two have no seed in common; theirs are paired in their order" in found.notes


def test_rows_of_one_study(tmp_path):
    runs(tmp_path, "dpo", [(1,) * 40, (1,) * 39 + (0,)])
    found = compare_rows(read_study(str(tmp_path / "*")), "dpo", "base")
    test = column(found, "test")
    assert test.difference.mean == pytest.approx(0.5 * (1.0 + 39 / 40) - 0.5)
    assert test.difference.seeds == 2
    with pytest.raises(UserError, match="there is no row 'ipo' to compare; the rows are base, dpo"):
        compare_rows(read_study(str(tmp_path / "*")), "ipo", "base")


def test_output_drift_and_winners_stand_beside(tmp_path):
    """By the sum the first wins, by the mean over 3 and 1 tokens the second; see test_marks."""
    for method, logps, drift in (("dpo", [-3, -2.5], 1.5), ("ipo", [-2, -3], 3.0)):
        models = {("base", 0.0): {"test": {f"p{i}": [-1, -9] for i in range(4)}}}
        models[method, 1.0] = {"test": {f"p{i}": logps for i in range(4)}}
        facts = {"tokens": [3, 1], "characters": [3, 3], "abs_log_ratio": [drift, drift]}
        write_run(tmp_path / method, scores_of(models, **facts), config_of(method))
    found = innerpo.compare(tmp_path / "dpo", tmp_path / "ipo", scorer="sum_logp")
    (test,) = found.differences
    assert (test.drift_a, test.drift_b) == (0.75, 1.5)  # 2 x 1.5 nats over 4 tokens
    assert {s: w["test"] for s, w in found.winners.items()} == {
        "sum_logp": "ipo",
        "mean_logp": "=",
        "per_character": "ipo",
        "implicit": "=",
        "inner": "-",
    }
    assert any(note.startswith("test: the winner depends on the scorer: sum_logp: ipo") for note in found.notes)


def test_what_cannot_be_compared(tmp_path):
    one = runs(tmp_path, "dpo", [HALF])
    runs(tmp_path, "ipo", [HALF])
    with pytest.raises(UserError, match="hold several methods: dpo, ipo"):
        innerpo.compare(one, str(tmp_path / "*"))
    elsewhere = runs(tmp_path / "x", "ipo", [HALF], source="code")
    with pytest.raises(UserError, match="share no set"):
        innerpo.compare(one, elsewhere)
    models = {("base", 0.0): {"test": right(*HALF)}, ("ipo", 1.0): {"test": right(*HALF)}}
    write_run(tmp_path / "other", scores_of(models, reference="base-2"), config_of("ipo"))
    with pytest.raises(UserError, match="different base models"):
        innerpo.compare(one, tmp_path / "other")
    write_run(tmp_path / "none", scores_of({("base", 0.0): {"test": right(*HALF)}}), config_of("ipo"))
    with pytest.raises(UserError, match="hold no trained model"):
        innerpo.compare(one, tmp_path / "none")


def test_formats_of_a_comparison(tmp_path):
    found = innerpo.compare(runs(tmp_path, "dpo", [(1,) * 40]), runs(tmp_path, "ipo", [HALF]))
    text = render_comparison(found, "markdown")
    assert "| set | dpo | ipo | difference | p | Holm | sign flips | McNemar |" in text
    assert "| test | 1.000 [" in text
    assert "**+.500 [+" in text
    assert "* test: dpo is better; output drift .000 and .000 nats per token" in text
    assert render_comparison(found, "csv").splitlines()[0].startswith("a,b,scorer,column,a_mean,a_low,a_high,b_mean")
    assert json.loads(render_comparison(found, "json"))["differences"][0]["difference"]["mean"] == 0.5


def test_the_verb(tmp_path, capsys):
    a, b = runs(tmp_path, "dpo", [(1,) * 40]), runs(tmp_path, "ipo", [HALF])
    assert main(["compare", a, b]) == 0
    shown = capsys.readouterr().out
    assert "Accuracy by mean_logp: dpo less ipo" in shown
    assert "test: dpo is better" in shown
    assert main(["compare", a, str(tmp_path / "none")]) == 2
    assert "no folder matches" in capsys.readouterr().err


# -- curves --------------------------------------------------------------------------------------------------------


def curve_run(root, method, seed, points, n=20, sets=DEFAULT_SETS, **options):
    """A run whose policy has these {strength: (right of n on test, right of n on oos, drift)}."""
    config = config_of(method, seed, **options)
    some = lambda k: right(*([1] * k + [0] * (n - k)))  # noqa: E731
    targets = [name for name in sets if name != "test"]
    by_set = lambda test, oos: {"test": some(test)} | {name: some(oos) for name in targets}  # noqa: E731
    frames = [scores_of({("base", 0.0): by_set(8, 12)}, sets)]
    for strength, (test, oos, drift) in points.items():
        models = {(config.method_label, strength): by_set(test, oos)}
        frames.append(scores_of(models, sets, abs_log_ratio=drift))
    from innerpo.evaluation.facts import combine

    return write_run(root / config.run_name, combine(frames), config)


STRAIGHT = {0.5: (12, 11, 0.5), 1.0: (16, 10, 1.0)}
BETTER = {0.5: (12, 12, 0.5), 1.0: (16, 12, 1.0)}


def test_a_curve_by_hand(tmp_path):
    curve_run(tmp_path, "dpo", 1, STRAIGHT)
    curve_run(tmp_path, "dpo", 2, {0.5: (14, 11, 0.7), 1.0: (18, 8, 2.0)})
    (curve,) = curves(read_study(str(tmp_path / "*")))
    assert (curve.method, curve.source, curve.target) == ("dpo", "toy", "far")
    found = [x for p in curve.points for x in (p.strength, p.test, p.oos, p.drift)]
    assert found == pytest.approx([0, 0.4, 0.6, 0, 0.5, 0.65, 0.55, 0.6, 1, 0.85, 0.45, 1.5])
    assert [(p.strength, p.test, p.oos, p.drift) for p in curve.by_seed[1]] == [
        (0.0, 0.4, 0.6, 0.0),
        (0.5, 0.6, 0.55, 0.5),
        (1.0, 0.8, 0.5, 1.0),
    ]


def test_gains_by_hand(tmp_path):
    """dpo loses .1 from test .4 to .8 in a straight line, the other nothing: .05 on average, .1 at the end."""
    for seed in (1, 2):
        curve_run(tmp_path, "dpo", seed, STRAIGHT)
        curve_run(tmp_path, "ipo", seed, BETTER)
    (gain,) = gains(read_study(str(tmp_path / "*")))
    assert (gain.method, gain.baseline) == ("ipo", "dpo")
    assert gain.frontier.mean == pytest.approx(0.05)
    assert gain.equal_drift.mean == pytest.approx(0.05)
    assert gain.plain.mean == pytest.approx(0.1)
    assert gain.frontier.low <= 0.05 <= gain.frontier.high
    assert gain.frontier.level == "seeds x prompts"


def test_the_mean_gain_over_shifts_by_hand(tmp_path):
    """Two shifts like the one above."""
    sets = {"test": ("toy", "test", "test"), "far": ("far", "test", "oos"), "code": ("code", "test", "oos")}
    for method, points in (("dpo", STRAIGHT), ("ipo", BETTER)):
        for seed in (1, 2):
            curve_run(tmp_path, method, seed, points, sets=sets)
    study = read_study(str(tmp_path / "*"))
    (gain,) = suite_gains(study)
    assert (gain.method, gain.source, gain.target) == ("ipo", "", "mean of 2 shifts")
    assert [g.target for g in gains(study)] == ["far", "code"]
    assert gain.frontier.mean == pytest.approx(0.05)
    assert gain.plain.mean == pytest.approx(0.1)
    assert gain.frontier.level == "shifts x seeds x prompts"
    assert gain_text([gain]).rows[0][1] == "mean of 2 shifts"


def test_one_shift_has_no_mean_over_shifts(tmp_path):
    curve_run(tmp_path, "dpo", 1, STRAIGHT)
    curve_run(tmp_path, "ipo", 1, BETTER)
    assert suite_gains(read_study(str(tmp_path / "*"))) == []


def test_a_method_gains_nothing_over_itself(tmp_path):
    curve_run(tmp_path, "dpo", 1, STRAIGHT)
    curve_run(tmp_path, "ipo", 1, STRAIGHT)
    (gain,) = gains(read_study(str(tmp_path / "*")))
    assert (gain.frontier.mean, gain.plain.mean, gain.equal_drift.mean) == (0.0, 0.0, 0.0)


def test_other_pairs_have_no_frontier_and_another_baseline_is_refused(tmp_path):
    curve_run(tmp_path, "dpo", 1, STRAIGHT)
    study = read_study(str(tmp_path / "*"))
    assert gains(study) == []
    with pytest.raises(UserError, match="there is no method 'ipo' in the study to compare curves with; there are dpo"):
        gains(study, "ipo")


def test_curves_as_text(tmp_path):
    curve_run(tmp_path, "dpo", 1, STRAIGHT)
    curve_run(tmp_path, "ipo", 1, BETTER)
    study = read_study(str(tmp_path / "*"))
    found, gained = curves(study), gains(study)
    assert curve_text(found).rows[1] == ("dpo", "toy -> far", "0.5", ".600", ".550", ".500")
    assert gain_text(gained).rows[0][:2] == ("ipo", "toy -> far")
    assert gain_text(gained).rows[0][2].startswith("+.050 [")
    text = render_curves(found, gained, "csv").splitlines()
    assert text[:2] == ["method,source,target,seed,strength,test,oos,drift", "dpo,toy,far,1,0.0,0.4,0.6,0.0"]
    assert len(json.loads(render_curves(found, gained, "json"))["gains"]) == 1


def test_curves_without_the_usual_baseline_have_no_gains(tmp_path, capsys):
    for method in ("ipo", "sft"):
        curve_run(tmp_path, method, 1, STRAIGHT)
    assert main(["table", str(tmp_path / "*"), "--curves"]) == 0
    shown = capsys.readouterr().out
    assert "Accuracy by strength of the adapter" in shown
    assert "gained over" not in shown
    assert main(["table", str(tmp_path / "*"), "--curves", "--baseline=ipo"]) == 0
    assert "gained over ipo" in capsys.readouterr().out


def test_the_usual_baseline_may_have_an_id(tmp_path, capsys):
    """Where all runs have another learning rate, say, there is one row of dpo, and it is no plain name."""
    for method in ("dpo", "ipo"):
        curve_run(tmp_path, method, 1, STRAIGHT, lr=5e-4)
    assert main(["table", str(tmp_path / "*"), "--curves"]) == 0
    assert "gained over dpo" in capsys.readouterr().out


def test_a_shift_that_was_scored_under_two_names_is_one(tmp_path):
    """oos beside the run's own adapter, and its data set's name in a suite that was scored later."""
    named = {"test": ("toy", "test", "test"), "far": ("far", "test", "oos")}
    for method, points in (("dpo", STRAIGHT), ("ipo", BETTER)):
        own = curve_run(tmp_path / "runs", method, 1, points)
        again = curve_run(tmp_path / "again", method, 1, points, sets=named)
        (again / "config.yaml").unlink()
        again.rename(own / "eval-12345678")
    study = read_study(str(tmp_path / "runs" / "*"))
    assert study.runs.height == 4
    assert [(g.method, g.target) for g in gains(study)] == [("ipo", "far")]
    assert suite_gains(study) == []
    assert [len(curve.points) for curve in curves(study)] == [3, 3]


def test_a_method_with_other_seeds_on_other_shifts_names_them(tmp_path):
    def curve(source, seeds):
        return Curve("dpo", source, "far", (), dict.fromkeys(seeds, ()))

    alike = curve_text([curve("a", (1, 2)), curve("b", (1, 2))]).notes[1:]
    assert alike == ("dpo: seeds 1, 2",)
    found = curve_text([curve("a", (1, 2)), curve("b", (1, 2)), curve("c", (1,))]).notes[1:]
    assert found == ("dpo: seeds 1, 2 (a -> far, b -> far)", "dpo: seeds 1 (c -> far)")


def test_the_verb_shows_curves(tmp_path, capsys):
    curve_run(tmp_path, "dpo", 1, STRAIGHT)
    curve_run(tmp_path, "ipo", 1, BETTER)
    assert main(["table", str(tmp_path / "*"), "--curves"]) == 0
    shown = capsys.readouterr().out
    assert "Accuracy by strength of the adapter" in shown
    assert "Accuracy out of distribution gained over dpo" in shown
