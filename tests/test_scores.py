"""Scores: facts of responses, scorers and outcomes of pairs, files, the headline table, and `eval` from end to end."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import torch
from peft import LoraConfig, get_peft_model

from conftest import build_model, make_pairs, run_in
from innerpo.cli.verbs import main
from innerpo.config.run import default_run
from innerpo.data.pairs import PreferencePair, cluster_of
from innerpo.errors import UserError
from innerpo.evaluation import prepared as prepared_sets
from innerpo.evaluation import scoring_run
from innerpo.evaluation.facts import PAIRS, RESPONSES, Scores, combine, read_scores
from innerpo.evaluation.outcomes import pair_outcomes
from innerpo.evaluation.score import absolute_log_ratio, pair_facts, response_facts
from innerpo.evaluation.scoring_run import prepare_scoring, score_run
from innerpo.evaluation.sets import EvaluationSet, set_facts
from innerpo.evaluation.statistics import UNKNOWN, Estimate, accuracy
from innerpo.evaluation.tables import as_markdown, format_estimate, headline
from innerpo.model.forward.outputs import SequenceOutputs
from innerpo.registry import SCORERS
from source_helpers import write_jsonl

NAN = float("nan")


def frame(schema, text):
    """Read a table written as text: a header, then rows; what the header leaves out is the same everywhere."""
    header, *lines = (line.split() for line in text.strip().splitlines())
    usual = {
        "model": "base",
        "strength": 0,
        "reference": "f00d",
        "set": "test",
        "dataset": "toy",
        "split": "test",
        "tokens": 1,
    }
    usual |= {"characters": 1, "inner": NAN, "abs_log_ratio": NAN}
    columns = {c: [line[header.index(c)] for line in lines] if c in header else [usual[c]] * len(lines) for c in schema}
    return pl.DataFrame([pl.Series(c, v).cast(schema[c]) for c, v in columns.items()])


RESPONSES_OF_TWO_PROMPTS = """
model  strength  prompt  response  logp  tokens  characters  inner
base   0         a       0         -3    1       3           1
base   0         a       1         -4    2       9           2
base   0         b       0         -2    1       5           0
base   0         b       1         -2    1       5           nan
base   0         b       2         -1    1       4           1
dpo    1         a       0         -4    1       3           5
dpo    1         a       1         -3    1       9           2
dpo    1         b       0         -2    1       5           3
dpo    1         b       1         -5    1       5           2
dpo    1         b       2         -1    1       4           1
"""
PAIRS_OF_TWO_PROMPTS = """
pair   prompt  chosen  rejected
toy/0  a       0       1
toy/1  b       0       1
toy/2  b       0       2
"""


@pytest.fixture
def scores():
    return Scores(frame(RESPONSES, RESPONSES_OF_TWO_PROMPTS), frame(PAIRS, PAIRS_OF_TWO_PROMPTS))


def outcomes_of(scores, scorer):
    """Return {model: outcomes in the order of the pairs}, unknown ones as None."""
    table = pair_outcomes(scores, scorer).fill_nan(None)
    return {model: rows["outcome"].to_list() for (model,), rows in table.group_by("model", maintain_order=True)}


# -- scorers and outcomes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scorer", "base", "dpo"),
    [
        # By sum the short response wins pair 0 (-3 > -4), by mean over tokens the long one does (-3 / 1 < -4 / 2).
        ("sum_logp", [1.0, 0.5, 0.0], [0.0, 1.0, 0.0]),
        ("mean_logp", [0.0, 0.5, 0.0], [0.0, 1.0, 0.0]),
        ("inner", [0.0, None, 0.0], [1.0, 1.0, 1.0]),
        ("longer", [0.0, 0.5, 1.0], [0.0, 0.5, 1.0]),
    ],
)
def test_outcomes_by_hand(scores, scorer, base, dpo):
    """1 where chosen scores higher, 0 where lower, one half for a tie, unknown where a score is."""
    assert outcomes_of(scores, scorer) == {"base": base, "dpo": dpo}


def test_the_table_of_outcomes(scores):
    assert pair_outcomes(scores, "sum_logp").rows() == [
        ("base", 0.0, "test", "toy/0", "a", 1.0),
        ("base", 0.0, "test", "toy/1", "b", 0.5),
        ("base", 0.0, "test", "toy/2", "b", 0.0),
        ("dpo", 1.0, "test", "toy/0", "a", 0.0),
        ("dpo", 1.0, "test", "toy/1", "b", 1.0),
        ("dpo", 1.0, "test", "toy/2", "b", 0.0),
    ]


def test_accuracy_by_hand(scores):
    found = accuracy(pair_outcomes(scores, "sum_logp").filter(pl.col("model") == "base"))
    assert (found.mean, found.n, found.clusters) == (0.5, 3, 2)  # (1 + 1/2 + 0) / 3
    assert 0.0 <= found.low <= found.mean <= found.high <= 1.0
    unknown = accuracy(pair_outcomes(scores, "inner").filter(pl.col("model") == "base"))
    assert unknown is UNKNOWN


def test_a_scorer_from_outside_appears_when_it_is_named(scores, monkeypatch):
    """Such as one that relates a model's log-probability to the base's, from the facts alone."""

    def gain(responses):
        base = responses.filter(pl.col("strength") == 0.0).select("set", "prompt", "response", base="logp")
        joined = responses.join(base, on=["set", "prompt", "response"], how="left", maintain_order="left")
        return joined["logp"] - joined["base"]

    monkeypatch.setitem(SCORERS, "gain", gain)
    assert outcomes_of(scores, "gain") == {"base": [0.5, 0.5, 0.5], "dpo": [0.0, 1.0, 0.5]}
    table = headline(scores, [], "gain")
    assert "| dpo | - | .500 [.002, .998] | - | - |" in as_markdown(table)
    assert as_markdown(table).startswith("Accuracy by gain, ")


@pytest.mark.parametrize(
    ("scorer", "says"),
    [
        (lambda responses: responses["logp"][:3], "must return one number per response"),
        (lambda responses: responses["model"], "must return one number per response"),
        (None, "unknown scorer 'mine'"),
    ],
)
def test_what_is_no_scorer(scores, scorer, says, monkeypatch):
    if scorer is not None:
        monkeypatch.setitem(SCORERS, "mine", scorer)
    with pytest.raises(UserError, match=says):
        pair_outcomes(scores, "mine")


# -- facts ---------------------------------------------------------------------------------------------------------


def outputs(*logps, n_tokens=3):
    return SequenceOutputs(torch.tensor(logps), torch.full((len(logps),), n_tokens), None)


def test_facts_from_outputs_by_hand(items):
    found = response_facts(items[:2], outputs(-1.0, -2.0, -3.0, -4.5), None, torch.tensor([0.0, 0.5, 1.0, 2.0]))
    a, b = (i.cluster for i in items[:2])
    assert found.drop("inner").rows() == [
        # prompt, response, logp, tokens, characters, abs_log_ratio
        (a, 0, -1.0, 3, len(" 11"), 0.0),
        (a, 1, -2.0, 3, len(" 0 I think"), 0.5),
        (b, 0, -3.0, 3, len(" 64 is it"), 1.0),
        (b, 1, -4.5, 3, len(" 37 I think"), 2.0),
    ]
    assert found["inner"].is_nan().all()
    assert pair_facts(items[:2]).rows() == [("toy/0", a, 0, 1), ("toy/1", b, 0, 1)]


@pytest.mark.parametrize("bad", [NAN, float("inf"), float("-inf")])
def test_a_log_probability_that_is_not_finite_names_the_pair(items, bad):
    with pytest.raises(UserError, match="pair toy/1 has a log-probability that is not finite"):
        response_facts(items[:2], outputs(-1.0, -2.0, -3.0, bad), None, torch.zeros(4))


def test_a_response_without_tokens_names_the_pair(items):
    with pytest.raises(UserError, match="pair toy/0 has a response without tokens"):
        response_facts(items[:1], outputs(-1.0, -2.0, n_tokens=0), None, torch.zeros(2))


def test_absolute_log_ratio_by_hand():
    """Responses of 2, 1 and 3 tokens; a rise and a fall do not cancel."""
    n = torch.tensor([2, 1, 3])
    ours = SequenceOutputs(torch.zeros(3), n, token_logps=torch.tensor([-1.0, -2.0, -3.0, -1.0, -1.0, -1.0]))
    theirs = SequenceOutputs(torch.zeros(3), n, token_logps=torch.tensor([-1.5, -1.5, -3.0, -1.0, -3.0, -0.5]))
    assert absolute_log_ratio(ours, theirs).tolist() == [1.0, 0.0, 2.5]
    assert absolute_log_ratio(ours, ours).tolist() == [0.0, 0.0, 0.0]
    assert absolute_log_ratio(ours, replace(theirs, token_logps=None)).isnan().all()


def test_combined_scores_keep_the_base_once(scores):
    base, dpo = (scores.responses.filter(pl.col("model") == model) for model in ("base", "dpo"))
    first = Scores(pl.concat([base, dpo]), scores.pairs)
    other = base.with_columns(logp=pl.lit(-9.0))
    second = Scores(pl.concat([other, dpo.with_columns(model=pl.lit("innerpo"))]), scores.pairs)
    both = combine([first, second])
    assert both.pairs.equals(scores.pairs)
    assert both.responses["model"].to_list() == ["base"] * 5 + ["dpo"] * 5 + ["innerpo"] * 5
    assert both.responses.head(5).equals(base)


# -- files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_scores_survive_the_disk(tmp_path, ending):
    text = pl.col("pair").replace({"toy/0": 'a "quoted"\nid'})
    responses = frame(RESPONSES, RESPONSES_OF_TWO_PROMPTS).with_columns(
        dataset=pl.lit("naïve"), logp=pl.Series([-100 / 3, -1e-17, 0.1 + 0.2, -1e300, *[-1.0] * 6])
    )
    sets = set_facts([toy_set("test", "ab"), toy_set("oos", "", "oos: no shift is listed for toy")])
    scores = Scores(responses, frame(PAIRS, PAIRS_OF_TWO_PROMPTS).with_columns(text), sets)
    scores.write(tmp_path, "parquet" if ending == "jsonl" else "jsonl")
    scores.write(tmp_path, ending)  # a folder has one set of scores
    assert {p.name for p in tmp_path.iterdir()} == {f"{name}.{ending}" for name in ("scores", "pairs", "sets")}
    back = read_scores(tmp_path)
    assert back.responses.equals(scores.responses)
    assert back.pairs.equals(scores.pairs)
    assert back.sets.rows() == [
        ("test", "toy", "test", "test", "", "", 2, 2, 0, -1, ""),
        ("oos", "", "test", "oos", "", "", 0, 0, 0, -1, "oos: no shift is listed for toy"),
    ]
    assert back.responses["inner"].is_nan().sum() == 1


def test_a_line_of_jsonl(tmp_path, scores):
    scores.write(tmp_path, "jsonl")
    line = (tmp_path / "scores.jsonl").read_text().splitlines()[3]
    assert json.loads(line) == {
        **{"model": "base", "strength": 0.0, "reference": "f00d", "set": "test", "dataset": "toy"},
        **{"split": "test", "prompt": "b"},
        **{"response": 1, "logp": -2.0, "tokens": 1, "characters": 5, "inner": None, "abs_log_ratio": None},
    }


def test_what_holds_no_scores(tmp_path, scores):
    with pytest.raises(UserError, match=r"holds no scores\.parquet"):
        read_scores(tmp_path)
    pl.DataFrame({"model": ["base"], "chosen_logp": [-1.0]}).write_parquet(tmp_path / "scores.parquet")
    with pytest.raises(UserError, match=r"cannot read .*scores\.parquet as scores"):
        read_scores(tmp_path)
    without = scores.responses.filter((pl.col("model") == "base") | (pl.col("response") != 2))
    with pytest.raises(UserError, match="pair toy/2 of test lacks its rejected response by dpo"):
        Scores(without, scores.pairs)


# -- the table -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("estimate", "shown"),
    [
        (Estimate(0.6324, 0.5712, 0.6899, 9, 9), ".632 [.571, .690]"),
        (Estimate(1.0, 0.9996, 1.0, 9, 9), "1.000 [1.000, 1.000]"),
        (Estimate(0.0, 0.0, 0.25, 9, 9), ".000 [.000, .250]"),
        (Estimate(0.75, NAN, NAN, 4, 1), ".750"),
        (UNKNOWN, "-"),
    ],
)
def test_an_estimate_as_text(estimate, shown):
    assert format_estimate(estimate) == shown


def toy_set(name, prompts, note=""):
    """A set with one pair for each letter, which names the pair's prompt."""
    pairs = [PreferencePair(p, " yes", " no", f"{name}/{i}", "toy", "test", p) for i, p in enumerate(prompts)]
    return EvaluationSet(name, "toy" if prompts else "", "test", name, "", tuple(pairs), note)


def test_the_table_as_markdown():
    responses = frame(
        RESPONSES,
        """
        model  strength  set    prompt  response  logp
        base   0         train  a       0         -1
        base   0         train  a       1         -2
        base   0         train  b       0         -1
        base   0         train  b       1         -2
        base   0         test   c       0         -1
        base   0         test   c       1         -2
        dpo    1         train  a       0         -2
        dpo    1         train  a       1         -1
        dpo    1         train  b       0         -2
        dpo    1         train  b       1         -1
        """,
    )
    pairs = frame(
        PAIRS,
        """
        set    pair  prompt  chosen  rejected
        train  0     a       0       1
        train  1     b       0       1
        test   2     c       0       1
        test   3     c       1       0
        """,
    )
    sets = [toy_set("train", "ab"), toy_set("test", "cc"), toy_set("oos", "", "oos: no shift is listed for toy")]
    # train, base: both won. A quarter won and a quarter lost added: q = .9, se^2 = .25 (.1^2 + .9^2) / 2 = .1025, and
    # with t = 12.706 of one degree of freedom the lower end is 1 / (1 + t^2 se^2 / (.9 .1)) = .0054.
    # test: one prompt, so no interval
    assert as_markdown(headline(Scores(responses, pairs), sets)) == (
        "Accuracy by mean_logp, 95 % interval over prompts\n"
        "\n"
        "| method | train | test | oos |\n"
        "| --- | ---: | ---: | ---: |\n"
        "| base | 1.000 [.005, 1.000] | .500 | - |\n"
        "| dpo | .000 [.000, .995] | - | - |\n"
        "\n"
        "train: toy (test), 2 pairs of 2 prompts\n"
        "test: toy (test), 2 pairs of 1 prompts\n"
        "oos: no shift is listed for toy\n"
    )


def test_strengths_of_one_model_are_rows_of_their_own(scores):
    weak = scores.responses.filter(pl.col("model") == "dpo").with_columns(strength=pl.lit(0.5))
    both = Scores(pl.concat([scores.responses, weak]), scores.pairs)
    assert list(headline(both, []).cells) == ["base", "dpo x 1", "dpo x 0.5"]


# -- scoring a model -----------------------------------------------------------------------------------------------


def test_a_split_is_run_once_whatever_sets_it_stands_in(toy, tmp_path, monkeypatch):
    """test and oos share a split, oos in another order; extra takes one of the two pairs of a prompt."""
    pairs = make_pairs(4)
    doubled = [*pairs, replace(pairs[0], id="toy/0b", rejected=" none")]
    sets = [
        EvaluationSet("train", "toy", "train", "train", "", tuple(pairs[2:])),
        EvaluationSet("test", "toy", "test", "test", "", tuple(doubled)),
        EvaluationSet("oos", "toy", "test", "oos", "", tuple(reversed(pairs))),
        EvaluationSet("rnd", "", "", "rnd", "", (), "rnd: no control"),
        EvaluationSet("extra", "toy", "test", "extra", "", (doubled[-1],)),
    ]
    run = []
    for module, name in ((prepared_sets, "compute_reference"), (scoring_run, "score_items")):
        plain = getattr(module, name)

        def counted(*args, plain=plain, **options):
            run.append((plain.__name__, options["what"]))
            return plain(*args, **options)

        monkeypatch.setattr(module, name, counted)
    config = default_run("dpo")
    config = replace(config, data=replace(config.data, cache_dir=tmp_path))
    prepared = prepare_scoring(sets, toy, config, None)
    policy = build_model()
    with torch.no_grad():
        policy.lm_head.weight.mul_(1 + 1e-6)  # a policy that is its base is refused
    scores = score_run(prepared, policy, toy, "dpo")
    assert run == [
        ("compute_reference", "toy (train)"),
        ("compute_reference", "toy (test)"),
        ("score_items", "toy (train)"),
        ("score_items", "toy (test)"),
    ]
    assert scores.pairs.group_by("set", maintain_order=True).agg("pair").rows() == [
        ("train", ["toy/2", "toy/3"]),
        ("test", ["toy/0", "toy/0b", "toy/1", "toy/2", "toy/3"]),
        ("oos", ["toy/0", "toy/1", "toy/2", "toy/3"]),
        ("extra", ["toy/0b"]),
    ]
    counts = scores.responses.group_by("model", "set", "split", "strength", maintain_order=True).len().rows()
    assert counts == [
        (model, name, split, strength, n)
        for model, strength in (("base", 0.0), ("dpo", 1.0))
        for name, split, n in (("train", "train", 4), ("test", "test", 9), ("oos", "test", 8), ("extra", "test", 2))
    ]
    extra = scores.responses.filter(pl.col("set") == "extra", pl.col("model") == "base")
    assert extra["characters"].to_list() == [len(pairs[0].chosen), len(" none")]
    assert scores.responses["prompt"][0] == cluster_of(pairs[2].prompt)
    # the policy is all but the base: all but the same facts under another name
    facts = [scores.responses.filter(pl.col("model") == m)["logp"].to_list() for m in ("base", "dpo")]
    assert facts[0] == pytest.approx(facts[1], abs=1e-3)


def test_a_frozen_policy_is_the_base_and_is_not_run(toy, tmp_path):
    config = default_run("dpo")
    config = replace(config, data=replace(config.data, cache_dir=tmp_path))
    sets = [EvaluationSet("test", "toy", "test", "test", "", tuple(make_pairs(3)))]
    prepared = prepare_scoring(sets, toy, config, None)
    scores = score_run(prepared, toy.model, toy, "probe")
    base, probe = (scores.responses.filter(pl.col("model") == m).drop("model", "strength") for m in ("base", "probe"))
    assert base.equals(probe)
    assert len(base) == 6
    assert base["abs_log_ratio"].to_list() == [0.0] * 6


# -- eval from end to end ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory, toy_folder):
    """A toy run with its scores: (run folder, data file, folder of everything)."""
    folder = tmp_path_factory.mktemp("trained")
    pairs = [{"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected} for p in make_pairs(24)]
    rows = [pair | {"split": "test" if i % 3 == 0 else "train"} for i, pair in enumerate(pairs)]
    data = write_jsonl(folder / "numbers.jsonl", rows)
    out, cache = folder / "out", folder / "cache"
    words = [f"--model.base-model={toy_folder}", f"--data.dataset={data}", f"--data.cache-dir={cache}"]
    words += ["--model.dtype=float32", "--data.batch-size=4", "--training.epochs=3", f"--output-dir={out}"]
    words += ["--eval.oos-dataset=embedded:longer", "--eval.rnd-dataset=embedded:control", "--eval.max-prompts=6"]
    assert main(["train", "innerpo", *words]) == 0
    return run_in(out, "innerpo-none_numbers_seed1"), data, folder


def logp_of(scores, model):
    """Return {(set, prompt, response): logp} of one model."""
    rows = scores.responses.filter(pl.col("model") == model)
    return {row[:3]: row[3] for row in rows.select("set", "prompt", "response", "logp").rows()}


def test_eval_scores_what_training_scored(trained, tmp_path, capsys, monkeypatch):
    run, data, _ = trained
    first = read_scores(run)
    # Elsewhere, and under another name: only the run's own config tells what it was trained on.
    shutil.copytree(run, tmp_path / "copy")
    for name in ("scores", "pairs", "sets"):
        (tmp_path / "copy" / f"{name}.parquet").unlink()
    shutil.rmtree(tmp_path / "copy" / "scored")
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert main(["eval", "copy"]) == 0
    shown = capsys.readouterr().out
    again = read_scores(Path("copy"))

    expected = [(m, c, 12) for m in ("base", "innerpo-none") for c in ("train", "test", "oos", "rnd")]
    assert again.responses.group_by("model", "set", maintain_order=True).len().rows() == expected
    assert len(again.pairs) == 4 * 6
    assert again.pairs.equals(first.pairs)
    measured = ("logp", "inner", "abs_log_ratio")
    assert again.responses.drop(measured).equals(first.responses.drop(measured))
    for column in measured:
        assert (again.responses[column] - first.responses[column]).abs().max() < 1e-5
    base, policy = logp_of(again, "base"), logp_of(again, "innerpo-none")
    assert base.keys() == policy.keys()
    assert min(abs(policy[key] - base[key]) for key in base) > 1e-4  # the adapter is on
    by_token = again.responses.select("model", "set", "prompt", "response", "abs_log_ratio").rows()
    for model, *key, ratio in by_token:
        net = abs((policy if model != "base" else base)[tuple(key)] - base[tuple(key)])
        assert ratio >= net - 1e-4  # a sum of absolute values is at least the absolute value of the sum
        assert (ratio == 0.0) == (model == "base")
    assert set(again.responses["dataset"]) == {data, "embedded:longer", "embedded:control"}
    for line in (f"train: {data} (train), 6 pairs of 6 prompts", f"test: {data} (test)", "oos: embedded:longer (test)"):
        assert line in shown
    assert Path("copy/headline.md").read_text() == (run / "headline.md").read_text()


def test_base_facts_are_those_of_the_bare_model(trained, toy):
    """The base beside the adapter is the model without it: log-probabilities by a plain forward pass."""
    scores, pair = read_scores(trained[0]), make_pairs(1)[0]
    index = scores.pairs.filter(pl.col("pair") == "numbers.jsonl/1")["chosen"].item()
    where = (pl.col("model") == "base", pl.col("prompt") == pair.cluster, pl.col("response") == index)
    found = scores.responses.filter(*where).row(0, named=True)
    ids = toy.tokenizer(pair.prompt + pair.chosen)["input_ids"] + [1]
    n = len(toy.tokenizer(pair.prompt)["input_ids"])
    with torch.no_grad():
        logits = toy.model(torch.tensor([ids])).logits[0].log_softmax(-1)
    expected = sum(logits[i - 1, ids[i]].item() for i in range(n, len(ids)))
    assert found["tokens"] == len(ids) - n
    assert found["logp"] == pytest.approx(expected, abs=1e-4)
    assert found["abs_log_ratio"] == 0.0


def test_flags_of_eval_change_what_is_scored_wherever_they_stand(trained, tmp_path):
    run, data, _ = trained
    shutil.copytree(run, tmp_path / "copy")
    flags = ["--eval.oos_dataset", "embedded:shorter", "--eval.format", "jsonl", "--eval.max-prompts", "3"]
    assert main(["eval", *flags, str(tmp_path / "copy")]) == 0
    (path,) = (tmp_path / "copy").rglob("scores.jsonl")
    own = (tmp_path / "copy" / "scores.parquet").read_bytes()
    assert own == (run / "scores.parquet").read_bytes()  # other sets than the run's own do not replace its scores
    rows = read_scores(path.parent).responses
    assert rows.group_by("model", "set", "dataset", maintain_order=True).len().rows() == [
        (model, name, dataset, 6)
        for model in ("base", "innerpo-none")
        for name, dataset in (
            ("train", data),
            ("test", data),
            ("oos", "embedded:shorter"),
            ("rnd", "embedded:control"),
        )
    ]


def test_an_adapter_that_innerpo_did_not_train(trained, toy_folder, tmp_path, capsys):
    """Made with peft alone: no config, no directions. Its base model is the one it names."""
    _, data, folder = trained
    model = build_model()
    policy = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.constant_(parameter, 0.1)
    policy.peft_config["default"].base_model_name_or_path = str(toy_folder)
    policy.save_pretrained(tmp_path / "foreign")
    words = [f"--eval.train_dataset={data}", "--eval.rnd-dataset=embedded:control", "--eval.max-prompts=4"]
    words += [f"--data.cache-dir={folder / 'cache'}", "--model.dtype=float32"]
    assert main(["eval", str(tmp_path / "foreign"), *words]) == 0
    captured = capsys.readouterr()
    (written,) = (tmp_path / "foreign").glob("eval-*")
    scores = read_scores(written)
    assert set(scores.responses["model"]) == {"base", "foreign"}
    assert set(scores.responses["set"]) == {"train", "test", "rnd"}
    assert "no shift is listed" in captured.out
    assert scores.responses["inner"].is_nan().all()
    base, policy_logp = logp_of(scores, "base"), logp_of(scores, "foreign")
    assert len(base) == 3 * 4 * 2
    assert all(abs(policy_logp[key] - logp) > 1e-4 for key, logp in base.items())
    table = (written / "headline.md").read_text()
    assert f"oos: no shift is listed for {data}" in table
    cells = json.loads((written / "headline.json").read_text())["mean_logp"]["base"]
    assert math.isnan(cells["oos"]["mean"])
    assert cells["test"]["n"] == 4
