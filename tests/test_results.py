"""Tables over runs: rows, columns, cells by hand, suites, what is called best, and the formats."""

import csv
import dataclasses
import io
import json
import math
import random
import shutil
import time

import numpy as np
import polars as pl
import pytest

import innerpo
from innerpo.cli.verbs import main
from innerpo.errors import UserError
from innerpo.evaluation.columns import columns_of
from innerpo.evaluation.formats import number, p_text, render_table, table_text, transposed
from innerpo.evaluation.grids import NO_SEED, grids, paired
from innerpo.evaluation.joined import outcomes
from innerpo.evaluation.metrics.metric import measure, per_pair
from innerpo.evaluation.results import known_scorers, result_table
from innerpo.evaluation.statistics import Clustered, one_run, seeds_by_prompts, suite
from innerpo.evaluation.study import read_study
from study_helpers import config_of, right, run_of, scores_of, write_run

BASE = {"base_test": (1, 0, 0, 0), "base_oos": (1, 1, 0, 0)}
SEEDS = {1: (1, 1, 1, 0), 2: (1, 0, 1, 0), 3: (1, 1, 1, 1)}


@pytest.fixture(scope="module")
def two_methods(tmp_path_factory):
    """dpo with three seeds, ipo with one."""
    root = tmp_path_factory.mktemp("runs")
    for seed, test in SEEDS.items():
        run_of(root, "dpo", seed, test, (1, 0, 0, 0), **BASE)
    run_of(root, "ipo", 1, (0, 0, 0, 0), (1, 1, 1, 0), **BASE)
    return root


@pytest.fixture(scope="module")
def study(two_methods):
    return read_study(str(two_methods / "*"))


def means(table):
    return {row: {name: cell.estimate.mean for name, cell in cells.items()} for row, cells in table.rows.items()}


def test_the_rows_are_methods_and_the_cells_means_over_seeds(study):
    table = result_table(study)
    assert means(table) == {
        "base": {"test": 0.25, "oos": 0.5},
        "dpo": {"test": pytest.approx(0.75), "oos": 0.25},
        "ipo": {"test": 0.0, "oos": 0.75},
    }
    assert table.seeds == {"base": (), "dpo": (1, 2, 3), "ipo": (1,)}
    assert table.caption == "Accuracy by mean_logp, 95 % intervals over prompts, seeds x prompts"
    assert "dpo: seeds 1, 2, 3" in table.notes
    assert "(n) did not learn: ipo, test: test accuracy .000 is not above the base's .250" in table.notes
    assert table.rows["ipo"]["test"].marks == ("n",)
    assert table.rows["ipo"]["oos"].marks == ()


def test_intervals_are_those_of_the_statistics(study):
    table = result_table(study)
    sums, counts = np.array(list(SEEDS.values()), dtype=float), np.ones(4)
    of_base = one_run(Clustered(np.array([[1.0, 1.0, 0.0, 0.0]]), counts))
    for cell, wanted in (
        (table.rows["dpo"]["test"], seeds_by_prompts(Clustered(sums, counts))),
        (table.rows["base"]["oos"], of_base),
    ):
        found = dataclasses.astuple(cell.estimate)
        assert found[3:8] == dataclasses.astuple(wanted)[3:8]  # n, clusters, seeds, shifts, level
        assert found[:3] == pytest.approx(dataclasses.astuple(wanted)[:3])


def test_one_seed_is_said_to_be_one(two_methods):
    table = innerpo.table(str(two_methods / "*seed1"))
    assert table.caption == "Accuracy by mean_logp, 95 % intervals over prompts (seeds not covered: one seed)"


@pytest.mark.parametrize(
    ("metric", "wanted"),
    [
        ("gain", {"dpo": {"test": pytest.approx(50.0), "oos": -25.0}, "ipo": {"test": -25.0, "oos": 25.0}}),
        ("log_ratio_gain", {"dpo": {"test": pytest.approx(1.0), "oos": -0.5}, "ipo": {"test": -0.5, "oos": 0.5}}),
    ],
)
def test_metrics_relative_to_the_base_have_no_row_of_it(study, metric, wanted):
    """A right pair has the log-probabilities -1, -2, a wrong one -3, -2: a pair that turned is worth 2 nats."""
    assert means(result_table(study, metric)) == wanted


def test_the_perplexity_ratio_is_exponential(study):
    """Chosen responses of one token: the base's are -1 or -3. ipo on test: from (1, 0, 0, 0) to none right."""
    table = result_table(study, "perplexity_ratio")
    cell = table.rows["ipo"]["test"].estimate
    assert cell.mean == pytest.approx(math.exp(2 / 4))
    assert 0 < cell.low < cell.mean < cell.high
    assert table.caption.startswith("Perplexity on chosen over the base's, 95 %")


def test_a_metric_that_is_no_mean_has_no_interval(study):
    table = result_table(study, "ece")
    cell = table.rows["dpo"]["test"].estimate
    assert math.isnan(cell.low)
    by_seed = [abs(sum(t) / 4 - 1 / (1 + math.exp(-1))) for t in SEEDS.values()]
    assert cell.mean == pytest.approx(sum(by_seed) / 3)
    assert table.caption == "Expected calibration error by mean_logp, without intervals"


def test_elicitation_is_unknown_without_a_capability(study):
    assert math.isnan(means(result_table(study, "elicitation"))["dpo"]["oos"])
    known = result_table(study, "elicitation", capabilities={"far": 0.5})
    assert means(known)["dpo"]["oos"] == 0.5


def test_the_best_of_a_column_is_best_beyond_chance(tmp_path):
    """200 prompts: on test ipo wins nearly all of what dpo loses; on oos they are alike but for one prompt."""
    half = (1, 0) * 100
    base = {"base_test": half, "base_oos": half}
    run_of(tmp_path, "dpo", 1, half, half, **base)
    run_of(tmp_path, "ipo", 1, (1,) * 199 + (0,), (1, 1, *half[2:]), **base)
    table = result_table(read_study(str(tmp_path / "*")))
    best = {(row, name) for row, cells in table.rows.items() for name, cell in cells.items() if cell.best}
    assert best == {("ipo", "test")}


def test_strengths_have_rows_where_asked(tmp_path):
    a = {"test": right(1, 0)}
    models = {("base", 0.0): a, ("dpo", 0.5): a, ("dpo", 1.0): a, ("dpo", 1.5): a}
    study = read_study(write_run(tmp_path / "run", scores_of(models), config_of()))
    assert list(result_table(study).rows) == ["base", "dpo"]
    assert list(result_table(study, strengths=True).rows) == ["base", "dpo x 0.5", "dpo", "dpo x 1.5"]


def test_what_was_not_scored_as_trained_has_no_row_and_a_note(tmp_path):
    a = {"test": right(1, 0)}
    study = read_study(write_run(tmp_path / "run", scores_of({("base", 0.0): a, ("dpo", 0.5): a}), config_of()))
    table = result_table(study)
    assert list(table.rows) == ["base"]
    assert table.notes[0] == "dpo: scored at 0.5 times the adapter's update, not at 1; it has no row"
    assert not [note for note in result_table(study, strengths=True).notes if "no row" in note]


def test_a_column_with_fewer_seeds_than_its_row_says_so(tmp_path):
    """A study in the midst of its runs: three seeds on one shift, one on the other, and means of both."""
    rng = random.Random(2)
    for source, seeds in (("math", (1, 2, 3)), ("cooking", (1,))):
        for seed in seeds:
            suite_run(tmp_path, "dpo", seed, source, [f"{source} far"], 0.6, rng)
    table = result_table(read_study(str(tmp_path / "*")))
    assert table.rows["dpo"]["mean"].estimate.seeds == 1
    found = [note for note in table.notes if " of 3 seeds" in note]
    alone = "; an interval of one seed does not cover seeds"
    assert found == [
        f"test: 1 of 3 seeds of dpo, those that all its sets have{alone}",
        f"cooking -> cooking far: 1 of 3 seeds of dpo{alone}",
        f"mean: 1 of 3 seeds of dpo, those that all its sets have{alone}",
    ]


def test_unknown_names_are_refused(study):
    for options in ({"metric": "acuracy"}, {"scorer": "meanlogp"}):
        with pytest.raises(UserError, match="did you mean"):
            result_table(study, **options)


def test_scorers_that_are_known(study):
    assert known_scorers(study) == ["mean_logp", "sum_logp", "per_character", "implicit"]


# -- suites --------------------------------------------------------------------------------------------------------


def suite_run(root, method, seed, source, targets, p, rng, n=20):
    """A run with a test set and several targets; the outcome of each prompt is drawn."""
    config = config_of(method, seed, source)
    sets = {"test": (source, "test", "test")} | {t: (t, "test", "oos") for t in targets}
    outcomes = {name: right(*(int(rng.random() < p) for _ in range(n))) for name in sets}
    base = {name: right(*((1, 0) * (n // 2))) for name in sets}
    models = {("base", 0.0): base, (config.method_label, 1.0): outcomes}
    return write_run(root / config.run_name, scores_of(models, sets), config)


@pytest.fixture(scope="module")
def suite_study(tmp_path_factory):
    rng, tmp_path = random.Random(0), tmp_path_factory.mktemp("suite")
    for source, targets in {"math": ["hard", "code"], "cooking": ["history"]}.items():
        for method, p in {"dpo": 0.6, "ipo": 0.8}.items():
            for seed in (1, 2):
                suite_run(tmp_path, method, seed, source, targets, p, rng)
    return read_study(str(tmp_path / "*"))


def test_a_suite_has_a_column_for_each_shift_and_their_mean(suite_study):
    table = result_table(suite_study)
    shifts = ["cooking -> history", "math -> hard", "math -> code"]
    assert [c.name for c in table.columns] == ["test", *shifts, "mean"]
    for row in ("base", "dpo", "ipo"):
        found = means(table)[row]
        assert found["mean"] == pytest.approx(np.mean([found[s] for s in shifts]))
    dpo = table.rows["dpo"]
    assert dpo["mean"].estimate.level == "shifts x seeds x prompts"
    assert (dpo["mean"].estimate.shifts, dpo["mean"].estimate.seeds) == (3, 2)
    assert dpo["test"].estimate.shifts == 2
    assert "mean: mean over 3 shifts" in table.notes
    cells = grids(measure(suite_study).pairs.pipe(lambda f: per_pair(measure(suite_study), pl.col("outcome"))))
    members = next(c for c in table.columns if c.name == "mean").members
    by_hand = suite([Clustered(cells["dpo", m].values, cells["dpo", m].weights) for m in members])
    assert dpo["mean"].estimate.low == by_hand.low


def test_a_shift_that_one_method_lacks_leaves_its_mean_unknown(tmp_path):
    rng = random.Random(1)
    suite_run(tmp_path, "dpo", 1, "math", ["hard", "code"], 0.6, rng)
    suite_run(tmp_path, "ipo", 1, "math", ["hard"], 0.6, rng)
    table = result_table(read_study(str(tmp_path / "*")))
    assert [c.name for c in table.columns] == ["test", "hard", "code", "mean"]
    found = means(table)
    assert math.isnan(found["ipo"]["code"])
    assert math.isnan(found["ipo"]["mean"])
    assert not math.isnan(found["dpo"]["mean"])
    assert table_text(table).rows[2][3:] == ("-", "-")


def test_references_of_targets_have_no_column(tmp_path):
    sets = {"test": ("toy", "test", "test"), "far": ("far", "test", "oos"), "ref": ("ref", "test", "extra")}
    models = {("dpo", 1.0): {name: right(1, 0) for name in sets}}
    study = read_study(write_run(tmp_path / "run", scores_of(models, sets), config_of()))
    assert [c.name for c in columns_of(outcomes(study))] == ["test", "oos", "ref"]
    reference = pl.when(pl.col("set") == "ref").then(pl.lit("target reference")).otherwise("kind")
    study = type(study)(study.runs, study.responses, study.pairs, study.sets.with_columns(kind=reference))
    assert [c.name for c in columns_of(outcomes(study))] == ["test", "oos"]


@pytest.mark.slow
def test_a_suite_of_fifteen_shifts_five_seeds_and_ten_methods_takes_under_twenty_seconds(tmp_path):
    rng = random.Random(2)
    methods = ["dpo", "ipo", "simpo", "sft", "projgrad", "projbp", "prefvec", "reroute", "drift-only", "innerpo"]
    for method in methods:
        for seed in range(5):
            for s in range(3):
                suite_run(tmp_path, method, seed, f"s{s}", [f"t{s}{i}" for i in range(5)], 0.6, rng, n=250)
    start = time.process_time()
    table = result_table(read_study(str(tmp_path / "*")))
    assert time.process_time() - start < 20
    assert (len(table.rows), len(table.columns)) == (11, 17)


# -- grids ---------------------------------------------------------------------------------------------------------


def grid_of(root, method, seeds):
    for seed, outcome in seeds.items():
        run_of(root, method, seed, outcome, (1,), base_test=(1, 0, 0)[: len(outcome)], base_oos=(1,))
    study = read_study(str(root / f"{method}*"))
    return {
        row: g for (row, member), g in grids(per_pair(measure(study), pl.col("outcome"))).items() if member[3] == "test"
    }


def test_a_grid_holds_seeds_by_prompts(tmp_path):
    found = grid_of(tmp_path, "dpo", {2: (0, 1, 1), 1: (1, 1, 0)})
    assert (found["dpo"].seeds, found["dpo"].prompts) == ((1, 2), ("p0", "p1", "p2"))
    assert found["dpo"].values.tolist() == [[1, 1, 0], [0, 1, 1]]
    assert (found["base"].seeds, found["base"].values.tolist()) == ((NO_SEED,), [[1, 0, 0]])
    assert found["dpo"].mean == pytest.approx(4 / 6)


def test_pairs_stand_opposite_by_seed(tmp_path):
    a = grid_of(tmp_path, "dpo", {1: (1, 1, 0), 2: (0, 1, 1)})
    b = grid_of(tmp_path, "ipo", {2: (0, 0, 0), 3: (1, 1, 1)})
    common = paired(a["dpo"], b["ipo"])
    assert (common.seeds, common.values.tolist()) == ((2,), [[0, 1, 1]])
    against_base = paired(a["dpo"], a["base"])
    assert (against_base.seeds, against_base.values.tolist()) == ((1, 2), [[0, 1, 0], [-1, 1, 1]])
    assert paired(a["base"], a["dpo"]).values.tolist() == [[0, -1, 0], [1, -1, -1]]
    other = grid_of(tmp_path / "x", "sft", {7: (0, 0, 0), 8: (1, 1, 1), 9: (1, 1, 1)})
    in_order = paired(a["dpo"], other["sft"])
    assert (in_order.seeds, in_order.values.tolist()) == ((1, 2), [[1, 1, 0], [-1, 0, 0]])


def test_prompts_that_one_lacks_are_left_out(tmp_path):
    a = grid_of(tmp_path, "dpo", {1: (1, 1, 0)})["dpo"]
    b = grid_of(tmp_path, "ipo", {1: (0, 1)})["ipo"]
    found = paired(a, b)
    assert (found.prompts, found.values.tolist(), found.n) == (("p0", "p1"), [[1, 0]], 2)
    assert paired(a, type(a)((1,), (), np.zeros((1, 0)), np.zeros(0), 0)) is None


# -- formats -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table(two_methods):
    return result_table(read_study(str(two_methods / "*seed1")))


def test_markdown(table):
    lines = render_table(table, "markdown").splitlines()
    assert (
        lines[2:4] == ["| method | test (s) | oos |", "| --- | ---: | ---: |"] or lines[2] == "| method | test | oos |"
    )
    assert lines[4].startswith("| base | .250 [")
    assert any(line.startswith("| ipo | .000 [.000, ") and "(n)" in line for line in lines)
    assert "* oos: far (test)" in lines


def test_csv_holds_every_number(table):
    rows = list(csv.DictReader(io.StringIO(render_table(table, "csv"))))
    assert len(rows) == 6
    row = next(r for r in rows if (r["method"], r["column"]) == ("ipo", "oos"))
    assert (float(row["mean"]), row["n"], row["level"], row["best"]) == (0.75, "4", "prompts", "False")


def test_json_has_null_for_what_is_unknown(study):
    found = json.loads(render_table(result_table(study, "ece"), "json"))
    assert found["rows"]["dpo"]["test"]["estimate"]["low"] is None
    assert found["columns"][0]["name"] == "test"


def test_latex_is_escaped_and_has_rules(table):
    text = render_table(table, "latex")
    for part in (r"\toprule", r"\midrule", r"\bottomrule", r"\caption{Accuracy by mean\_logp, 95 \% intervals"):
        assert part in text
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert all(line.count("&") == 2 for line in body)


def test_the_best_is_bold(tmp_path):
    half = (1, 0) * 50
    run_of(tmp_path, "dpo", 1, half, half, base_test=half, base_oos=half)
    run_of(tmp_path, "ipo", 1, (1,) * 99 + (0,), half, base_test=half, base_oos=half)
    table = result_table(read_study(str(tmp_path / "*")))
    assert "| ipo | **.990 [" in render_table(table, "markdown")
    assert r"ipo & \textbf{.990 [" in render_table(table, "latex")
    assert transposed(table_text(table)).bold == {(0, 3)}


def test_an_unknown_format_is_refused(table):
    with pytest.raises(UserError, match="unknown format 'markdwn'; did you mean 'markdown'"):
        render_table(table, "markdwn")


def test_a_transposed_table_has_a_row_per_set(table):
    turned = transposed(table_text(table))
    assert turned.header == ("set", "base", "dpo", "ipo")
    assert [row[0].split(" ")[0] for row in turned.rows] == ["test", "oos"]
    assert turned.rows[1][3] == table_text(table).rows[2][2]


def test_numbers():
    assert [number(x) for x in (0.5, -0.25, float("nan"))] == [".500", "-.250", "-"]
    assert [number(x, 1, signed=True) for x in (2.0, -2.0, 0.0)] == ["+2.0", "-2.0", "0.0"]
    assert [p_text(p) for p in (0.0004, 0.05, 1.0, float("nan"))] == ["< .001", ".050", "1.000", "-"]


# -- the verb ------------------------------------------------------------------------------------------------------


def test_the_verb_shows_the_table_and_exits_with_two_where_something_was_left_out(two_methods, tmp_path, capsys):
    runs = shutil.copytree(two_methods, tmp_path / "runs")
    assert main(["table", str(runs / "*")]) == 0
    shown = capsys.readouterr().out
    assert "Accuracy by mean_logp" in shown
    assert "dpo: seeds 1, 2, 3" in shown
    (runs / "ipo_toy_seed1" / "scores.parquet").write_bytes(b"PAR1")
    assert main(["table", str(runs / "*"), "--metric=gain", "--format=csv"]) == 2
    captured = capsys.readouterr()
    assert captured.out.startswith("method,column,metric,")
    assert len(captured.err.strip().splitlines()) == 1
    assert "cannot read" in captured.err


def test_the_verb_without_anything_to_read(tmp_path, capsys):
    assert main(["table", str(tmp_path / "none*")]) == 2
    assert "no folder matches" in capsys.readouterr().err
