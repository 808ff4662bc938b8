"""The report as text: escaping, bounded examples, tables by hand, folders that lack files."""

import gc
import json
import math
import re
import shutil
import time
import weakref
from dataclasses import replace
from html.parser import HTMLParser

import polars as pl
import pytest

from innerpo import report
from innerpo.errors import UserError
from innerpo.evaluation.columns import Column
from innerpo.evaluation.estimates import NO_TEST, PairedTest
from innerpo.evaluation.joined import joined_pairs
from innerpo.evaluation.report import cells, charts, embed
from innerpo.evaluation.report.build import build_page
from innerpo.evaluation.report.examples import choose, examples, flips, margins
from innerpo.evaluation.report.generated import generations
from innerpo.evaluation.report.layers import layers_section
from innerpo.evaluation.report.overlap import overlap_section
from innerpo.evaluation.report.records import Cell, Figure, Section, Table
from innerpo.evaluation.report.render import content_policy, page_html, section_html, table_html
from innerpo.evaluation.report.results import headings
from innerpo.evaluation.report.summary import against_base, against_baseline, compared
from innerpo.evaluation.report.texts import cut, plain, read_texts
from innerpo.evaluation.report.theme import series_of
from innerpo.evaluation.report.training_curves import logged, training_section
from innerpo.evaluation.statistics import UNKNOWN
from innerpo.evaluation.study import read_study
from tests.report_helpers import HOSTILE, study_folders


class Elements(HTMLParser):
    """Counts the elements of a page and collects the texts of its scripts."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.names, self.scripts, self.inside = [], [], None
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.names.append(tag)
        self.inside = dict(attributes) if tag == "script" else None
        if tag == "script":
            self.scripts.append((self.inside.get("type", ""), ""))

    def handle_data(self, data):
        if self.inside is not None:
            kind, text = self.scripts[-1]
            self.scripts[-1] = (kind, text + data)

    def handle_endtag(self, tag):
        self.inside = None


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return study_folders(tmp_path_factory.mktemp("study"), prompts=12, shifts=2, strengths=(0.5, 1.0))


# -- escaping ----------------------------------------------------------------------------------------------------------


def test_json_in_a_script_begins_no_tag_and_reads_back():
    value = {"a": HOSTILE, "b": [1.5, float("nan"), None, True], "é": "\u2028"}
    text = embed.as_json(value)
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"a": HOSTILE, "b": [1.5, None, None, True], "é": "\u2028"}


def test_a_table_shows_markup_as_text():
    table = Table(HOSTILE, ("<i>", "x"), ((Cell(HOSTILE), Cell("<b>", 1.0, ("<u>",))),), (HOSTILE,))
    page = table_html(table)
    assert not {"script", "b", "i", "u"} & set(Elements(page).names)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "{{ 7 * 7 }}" in page


def test_a_chart_shows_markup_as_text():
    series = series_of([HOSTILE, "dpo"])
    rows = [{"set": HOSTILE, "series": s.label, "mean": 1.0, "low": 0.0, "high": 2.0, "text": ""} for s in series]
    section = Section("x", "x", (), (), (Figure("f", "", "", HOSTILE, charts.forest(rows, series, "points")),), series)
    found = Elements(section_html(section))
    assert [kind for kind, _ in found.scripts] == ["application/json"]
    labels = {row["series"] for row in json.loads(found.scripts[0][1])["datasets"]["rows"]}
    assert labels == {HOSTILE.replace("\u2028", " "), "dpo"}


def test_a_script_that_would_end_early_is_refused():
    with pytest.raises(ValueError, match="would end"):
        embed.script_hash("x = '</SCRIPT>'")
    # sha256 of nothing, as anyone may compute it
    assert "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='" in content_policy("")


# -- tables ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (cells.number(0.6324), "0.632"),
        (cells.number(-0.04, 1, signed=True), "0.0"),
        (cells.number(-1.26, 1, signed=True), "−1.3"),
        (cells.number(1.26, 1, signed=True), "+1.3"),
        (cells.number(float("nan")), "–"),
        (cells.interval(0.5, 0.4, 0.6), "0.500 [0.400, 0.600]"),
        (cells.interval(0.5, float("nan"), float("nan")), "0.500"),
        (cells.interval(float("nan"), 0.1, 0.2), "–"),
        (cells.whole(None), "–"),
    ],
)
def test_numbers_as_text(cell, text):
    assert cell.text == text


def test_columns_of_numbers_are_known_by_their_values():
    rows = ((Cell("a"), Cell("1", 1.0), Cell("–", float("nan"))), (Cell("b"), Cell("2", 2.0), Cell("x")))
    assert Table("", ("name", "n", "mixed"), rows).numeric == (False, True, False)
    assert Table("", ("name",), ()).numeric == (False,)
    assert 'data-value=""' in table_html(Table("", ("n",), ((cells.UNKNOWN,),)))


def test_a_wide_table_is_turned_and_keeps_its_marks():
    wide = Table(
        "c",
        ("method", "test", "oos"),
        ((Cell("dpo", None, ("m",)), Cell("1", 1.0), Cell("2", 2.0)),),
        ("n",),
        ((), (), ("length",)),
    )
    turned = wide.narrow("set")
    assert turned.columns == ("set", "dpo")
    assert turned.rows == ((Cell("test"), Cell("1", 1.0)), (Cell("oos", None, ("length",)), Cell("2", 2.0)))
    assert (turned.notes, turned.column_marks) == (("n",), ((), ("m",)))
    assert turned.narrow("method") is turned


def test_series_differ_in_colour_or_shape():
    found = series_of([f"m{i}" for i in range(56)] + ["m0"])
    assert len(found) == 56
    assert len({(s.colour, s.shape) for s in found}) == 56


# -- examples ----------------------------------------------------------------------------------------------------------


def rows(values):
    """Margins of one run: (set, pair, before, after, flip)."""
    columns = {"run": "r", "method": "dpo", "set": None, "dataset": "d", "split": "test", "pair": None}
    frame = pl.DataFrame(values, ["set", "pair", "before", "after", "flip"], orient="row")
    return frame.with_columns(**{k: pl.lit(v) for k, v in columns.items() if v}).select(
        *columns, "before", "after", "flip"
    )


def test_the_pairs_that_changed_most_are_kept_with_a_draw_of_the_others():
    found = rows([("test", f"p{i}", 0.0, float(-i if i % 2 else i), 0) for i in range(10)])
    kept = choose(found, changed=3, drawn=2)
    assert set(kept["pair"]) > {"p9", "p8", "p7"}
    assert len(kept) == 5
    assert kept.equals(choose(found, changed=3, drawn=2))
    others = {frozenset(choose(found, 3, 2, seed=s)["pair"]) for s in range(8)}
    assert len(others) > 1


def test_flips_are_counted_over_all_pairs():
    found = rows(
        [
            ("test", "a", -1.0, 1.0, 1),
            ("test", "b", 1.0, -1.0, -1),
            ("test", "c", 1.0, 2.0, 0),
            ("oos", "d", -1.0, 1.0, 1),
        ]
    )
    table = flips(found)
    assert table.columns == ("set", "r")
    assert [[c.text for c in row] for row in table.rows] == [["test (3 pairs)", "+1 −1"], ["oos (1 pairs)", "+1 −0"]]
    assert [row[1].value for row in table.rows] == [0.0, 1.0]


def test_margins_are_of_the_policy_as_trained_beside_its_base(folders):
    study = read_study(folders)
    found = margins(study)
    assert set(found["run"]) == set(study.runs["run"])
    own = study.responses.filter(pl.col("run") == "dpo_seed1", pl.col("set") == "test")
    pair = study.pairs.filter(pl.col("run") == "dpo_seed1", pl.col("set") == "test").row(3, named=True)
    by_model = {}
    for strength in (0.0, 1.0):
        at = own.filter(pl.col("strength") == strength, pl.col("prompt") == pair["prompt"])
        mean = dict(zip(at["response"], at["logp"] / at["tokens"], strict=True))
        by_model[strength] = mean[pair["chosen"]] - mean[pair["rejected"]]
    row = found.filter(pl.col("run") == "dpo_seed1", pl.col("pair") == pair["pair"]).row(0, named=True)
    assert (row["before"], row["after"]) == pytest.approx((by_model[0.0], by_model[1.0]))
    assert row["flip"] == (by_model[1.0] > 0) - (by_model[0.0] > 0)


def test_examples_carry_the_texts_of_their_pairs(folders):
    study = read_study(folders)
    found = examples(study, read_texts(study))
    by_pair = {row[3]: found.texts[row[2]] for row in found.rows}
    assert HOSTILE in {texts[0] for texts in by_pair.values()}
    assert all(texts[1].startswith("Answer") for texts in by_pair.values())


def test_data_sets_of_one_part_are_sets_of_their_own(folders):
    """The targets of several sources are all named oos; there are few pairs of each where there are many."""
    study = read_study(folders)
    one = {"target0": "oos", "target1": "oos"}
    merged = replace(
        study, **{f: getattr(study, f).with_columns(pl.col("set").replace(one)) for f in ("responses", "pairs", "sets")}
    )
    found = margins(merged)
    names = set(found["set"])
    assert len(names) == 4
    assert {name.partition(": ")[0] for name in names} == {"test", "oos", "rnd"}
    assert {name.rpartition("/")[2] for name in names if ": " in name} == {"target0.jsonl", "target1.jsonl"}
    assert found["set"].len() == margins(study)["set"].len()
    assert set(examples(merged, None).sets) == names


def test_files_of_one_name_keep_their_folders():
    def column(name, *members):
        return Column(name, "oos", members or (("s", name, "test", "oos"),))

    two = (("s", "x", "test", "oos"), ("t", "y", "test", "oos"))
    found = headings([column("a/test.jsonl"), column("b/test.jsonl"), column("c/own.jsonl"), column("rnd", *two)])
    assert found == ("a/test.jsonl", "b/test.jsonl", "own.jsonl", "rnd, mean of 2 sets")
    assert headings([column("mean", *two)]) == ("mean of 2 shifts",)


def test_scores_of_a_suite_belong_to_the_run_they_lie_in(folders, tmp_path):
    """One log, one inspection and one run, however many sets of scores it has."""
    own = tmp_path / "dpo_seed1"
    shutil.copytree(folders[0], own)
    (own / "eval-12345678").mkdir()
    for name in ("scores.parquet", "pairs.parquet", "sets.parquet"):
        rows, other = pl.read_parquet(own / name), pl.col("set") == "rnd"
        rows.filter(~other).write_parquet(own / name)
        rows.filter(other).write_parquet(own / "eval-12345678" / name)
    study = read_study(str(tmp_path / "*"))
    assert study.runs.height == 2
    series = series_of(["dpo"])
    assert training_section(study, series).text == ("Logs of 1 runs; one line is one run.",)
    assert "of the 1 runs that were inspected" in layers_section(study, series).text[0]
    assert compared(study)[0] == ("methods", "dpo (1 run, 1 seed)")


def test_a_data_set_that_is_gone_is_named_and_its_texts_are_missing(tmp_path):
    folders = study_folders(tmp_path, methods=("dpo",), prompts=4, shifts=1)
    (tmp_path / "target0.jsonl").unlink()
    study = read_study(folders)
    found = examples(study, read_texts(study))
    assert any("target0.jsonl (test) are not at hand: no such file" in note for note in found.notes)
    missing = {found.sets[row[0]] for row in found.rows if found.texts[row[2]] is None}
    assert missing == {"target0"}


def test_texts_are_cut_and_messages_keep_their_roles():
    assert (cut("abcd", 4), cut("abcde", 4)) == ("abcd", "abc…")
    assert (
        plain(({"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}))
        == "[user] hi\n\n[assistant] ho"
    )


def test_near_duplicates_are_listed_with_both_prompts(folders):
    study = read_study(folders)
    counts, listed = overlap_section(study, read_texts(study)).tables
    assert ("target0", "2") in [(row[1].text, row[4].text) for row in counts.rows]
    assert listed.caption == "Near-duplicates in target0"
    assert [[cell.text for cell in row] for row in listed.rows] == [
        [
            "1.00",
            f"Question {i} of target0: what follows from premise {i * 7}?",
            f"Question {i} of target0; what follows from premise {i * 7}",
        ]
        for i in (0, 1)
    ]
    assert len(overlap_section(study, None).tables) == 1


# -- files of a run ----------------------------------------------------------------------------------------------------


def test_a_log_is_thinned_and_keeps_its_ends():
    lines = [{"step": s, "loss": 1.0 / s} for s in range(1, 101)] + [{"step": 101, "loss": "nan"}, {"eval": 1}]
    found = logged(lines, "loss", points=10)
    assert len(found) == 11
    assert (found[0], found[-1]) == ((1.0, 1.0), (100.0, 0.01))
    assert logged(lines, "grad_norm") == []


def test_generations_stand_side_by_side_with_the_base_once(folders):
    sampling = {"sample": True, "temperature": 0.7, "top_p": 1.0, "seed": 3, "max_new_tokens": 9}
    for folder, strength in zip(folders, (1.0, 0.5), strict=True):
        method = folder.name.split("_")[0]
        texts = [
            {
                "set": "test",
                "prompt": "why?",
                "model": model,
                "strength": s,
                "text": t,
                "tokens": 4,
                "logp": -2.0,
                "stopped": False,
                "sampling": sampling,
            }
            for model, s, t in (("base", 0.0, "so"), (method, strength, method))
        ]
        (folder / "generations.jsonl").write_text("\n".join(map(json.dumps, texts)) + '\n{"half')
    (found,), notes = generations(read_study(folders))
    assert [(label, text) for label, text, _ in found.answers] == [
        ("base", "so"),
        ("dpo, seed 1", "dpo"),
        ("innerpo-none x 0.5, seed 1", "innerpo"),
    ]
    assert found.answers[0][2] == (
        "4 tokens, not ended by the model; log-probability -0.50 nats per token; "
        "sampled at temperature 0.7, top-p 1, seed 3"
    )
    assert notes == ()
    for folder in folders:
        (folder / "generations.jsonl").unlink()


def test_texts_at_strength_0_have_a_name_of_their_own(tmp_path):
    (folder,) = study_folders(tmp_path, methods=("dpo",), prompts=4, shifts=1)
    rows = [{"set": "test", "prompt": "why?", "model": "dpo", "strength": s, "text": str(s)} for s in (0.0, 1.0)]
    (folder / "generations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ((found,), _) = generations(read_study([folder]))
    assert [label for label, _, _ in found.answers] == ["dpo x 0, seed 1", "dpo, seed 1"]


# -- the headline sentence ---------------------------------------------------------------------------------------------


def estimate(mean, low, high):
    return replace(UNKNOWN, mean=mean, low=low, high=high)


def paired(mean, low, high, p, detectable=0.021):
    return PairedTest(estimate(mean, low, high), p, math.nan, math.nan, detectable)


@pytest.mark.parametrize(
    ("gain", "sentence"),
    [
        ((2.11, 0.4, 3.8), "dpo is more often right than its base on test: +2.1 points [0.4, 3.8]."),
        ((-2.0, -3.0, -1.0), "dpo is less often right than its base on test: −2.0 points [−3.0, −1.0]."),
        ((0.5, -1.0, 2.0), "No difference found between dpo and its base on test: +0.5 points [−1.0, 2.0]."),
        ((0.5, math.nan, math.nan), "dpo against its base on test: +0.5 points, without an interval."),
        ((math.nan, 0.0, 1.0), "Whether dpo differs from its base on test is not known."),
    ],
)
def test_one_method_is_compared_with_its_base(gain, sentence):
    assert against_base("dpo", estimate(*gain), "on test") == sentence


@pytest.mark.parametrize(
    ("tests", "sentence"),
    [
        ({"a": paired(0.03, 0.01, 0.05, 0.01)}, "a is more often right than dpo here: +3.0 points [1.0, 5.0]."),
        (
            {"a": paired(0.003, -0.01, 0.016, 0.6)},
            "No difference found between a and dpo here: +0.3 points [−1.0, 1.6]; "
            "a true difference of 2.1 points would be found four times in five.",
        ),
        # .03 alone would be a difference; of two tests it is none (Holm: 2 x .03 > .05)
        (
            {"a": paired(0.03, 0.01, 0.05, 0.03, math.nan), "b": paired(0.0, -0.1, 0.1, 0.9, math.nan)},
            "No difference found between dpo and the 2 other methods here.",
        ),
        (
            {"a": paired(0.03, 0.01, 0.05, 0.01), "b": paired(0.0, -0.1, 0.1, 0.9)},
            "1 of 2 methods differs from dpo here: a by +3.0 points [1.0, 5.0]; no difference found for the others.",
        ),
        ({"a": NO_TEST}, "Whether a differs from dpo here is not known."),
        ({"a": NO_TEST, "b": NO_TEST}, "Whether any of a and b differs from dpo here is not known."),
        # two methods have no test: .04 is the p of the one comparison there is
        (
            {"a": NO_TEST, "b": paired(0.03, 0.01, 0.05, 0.04), "c": NO_TEST},
            "b is more often right than dpo here: +3.0 points [1.0, 5.0]. Not known of a and c.",
        ),
    ],
)
def test_methods_are_compared_with_the_baseline_after_holms_correction(tests, sentence):
    assert against_baseline(tests, "dpo", "here") == sentence


# -- the page ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page(folders, tmp_path_factory):
    return report(folders, tmp_path_factory.mktemp("page") / "report.html").read_text(encoding="utf-8")


def test_the_page_runs_its_own_scripts_and_no_other(page):
    scripts = [text for kind, text in Elements(page).scripts if not kind]
    assert len(scripts) == 4
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)[1].replace("&#39;", "'")
    allowed = next(rule for rule in policy.split("; ") if rule.startswith("script-src")).split()[1:]
    assert allowed == [f"'{embed.script_hash(text)}'" for text in scripts]
    assert page.count("window.vegaEmbed = vegaEmbed") + page.count("window.vegaEmbed=") == 1


def test_the_page_asks_nothing_of_the_network(page):
    outside = re.sub(r"<script.*?</script>", "", page, flags=re.S)
    assert not re.findall(r'(?:src|href)="(?!#|data:)[^"]*"|url\(|@import', outside)


def test_the_hostile_prompt_is_text_everywhere(page):
    assert "<script>alert(1)" not in page
    assert "\\u003cscript\\u003ealert(1)" in page


def test_a_page_without_texts_about_runs_without_files_and_a_folder_that_cannot_be_read(tmp_path):
    folders = study_folders(tmp_path, methods=("dpo",), prompts=4, shifts=1)
    for name in ("metrics.jsonl", "run.json", "inspect.json", "config.yaml"):
        (folders[0] / name).unlink()
    (tmp_path / "empty").mkdir()
    written = {"set": "test", "prompt": "alert(1)", "model": "dpo", "strength": 1.0, "text": "what dpo wrote"}
    (folders[0] / "generations.jsonl").write_text(json.dumps(written) + "\n")
    page = report([*folders, tmp_path / "empty"], tmp_path / "out" / "r.html", texts=False).read_text()
    assert not {'id="training"', 'id="layers"', 'id="strength"'} & set(re.findall('id="[a-z]+"', page))
    assert "holds no run.json" in page
    assert "holds no scores.parquet" in page
    assert "alert(1)" not in page
    assert "left out of this page on request" in page
    assert "what dpo wrote" not in page
    assert "r.html --no-texts</pre>" in page
    assert "what dpo wrote" in page_html(build_page(read_study(folders), texts=False, with_generations=True))


def test_faults_are_one_line(folders, tmp_path):
    with pytest.raises(UserError, match="is a folder; name the file"):
        report(folders, tmp_path)
    with pytest.raises(UserError, match="no folder matches"):
        report([tmp_path / "nothing"], tmp_path / "r.html")


@pytest.mark.slow
def test_ten_runs_on_ten_shifts_are_a_small_page_and_soon_there(tmp_path):
    folders = study_folders(
        tmp_path, seeds=(1, 2, 3, 4, 5), shifts=10, prompts=250, strengths=(0.5, 1.0, 1.5), layers=30
    )
    before = time.process_time()  # other work on the machine does not count
    page = report(folders, tmp_path / "report.html")
    assert time.process_time() - before < 20
    assert page.stat().st_size < 10e6


def test_joined_facts_are_computed_once_per_study_and_scorer(folders):
    study = read_study(folders)
    assert joined_pairs(study) is joined_pairs(study, "mean_logp")
    assert joined_pairs(study) is not joined_pairs(study, "sum_logp")
    assert joined_pairs(study) is not joined_pairs(read_study(folders))
    known = weakref.ref(study)
    del study
    gc.collect()
    assert known() is None  # nothing outlives the study
