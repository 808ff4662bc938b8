"""Tuning: what is searched, that no target can be seen, that kills change nothing, and what is found."""

import json
import math
import multiprocessing
import os
import re
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as settings_
from hypothesis import strategies as st

import innerpo
from conftest import make_pairs
from innerpo.cli.verbs import main
from innerpo.config.identity import settings
from innerpo.config.method import default_method
from innerpo.config.run import default_run
from innerpo.config.yaml import overlay, read_yaml
from innerpo.data.pairs import hold_out
from innerpo.errors import MachineError, UserError
from innerpo.evaluation.facts import PAIRS, RESPONSES, SETS, Scores
from innerpo.experiments.layout import leases
from innerpo.experiments.tuning.journal import importances, suggest
from innerpo.experiments.tuning.objective import Measure, measure_of, pruning_steps
from innerpo.experiments.tuning.request import keep_request, read_ranges, tune_request
from innerpo.experiments.tuning.trials import Trial, best_of, read_trial, read_trials, write_trial
from innerpo.experiments.tuning.tune import _is_old
from innerpo.experiments.tuning.work import Budget, journal_of, work
from innerpo.registry import METHODS, SOURCES, resolve
from innerpo.spaces import SPACES
from study_helpers import run_of
from sweep_helpers import any_base
from tune_helpers import facts, killed_in, pretend, request_of, searched, value_of

FORK = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


# -- the space ---------------------------------------------------------------------------------------------------------


def test_every_method_declares_a_space_around_its_defaults():
    assert set(SPACES) == set(METHODS)
    for method, space in SPACES.items():
        values = {s.name: s.value for s in settings(default_run(method))}
        for name, (low, high, scale) in space.items():
            assert isinstance(values[name], float), (method, name)
            assert low <= values[name] <= high, (method, name)
            assert scale in ("log", "linear")
            assert scale == "linear" or low > 0
            for end in (low, high):  # the config takes every value of the range
                overlay(default_run(method), _nested(name, end), "test")
        assert bool(space) != default_method(method).frozen


def test_the_page_names_every_range():
    text = (Path(__file__).parents[1] / "docs" / "tune.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| `")]
    every = {method for method, space in SPACES.items() if space}
    found = {}
    for name, span, scale, who in (row for row in rows if len(row) == 4):
        named = set(re.findall(r"`([^`]+)`", who))
        for method in every - named if who.startswith("all but") else named:
            low, high = (float(end) for end in span.split(" to "))
            assert found.setdefault((method, name.strip("`")), (low, high, scale)) == (low, high, scale)
    assert found == {(method, name): span for method, space in SPACES.items() for name, span in space.items()}


def _nested(name, value):
    section, field = name.split(".")
    return {section: {field: value}}


def test_what_is_given_is_fixed_what_is_off_stays_off_and_ranges_hold_the_start():
    config = default_run("innerpo")
    assert list(tune_request(config).space) == ["training.lr", "method.beta", "method.alpha", "method.gamma"]
    assert "training.lr" not in tune_request(config, fixed={"training.lr"}).space
    off = replace(config, method=replace(config.method, gamma=0.0))
    assert "method.gamma" not in tune_request(off).space
    low = replace(config, training=replace(config.training, lr=1e-6))
    assert tune_request(low).space["training.lr"] == (1e-6, 2e-3, "log")
    found = tune_request(config, read_ranges(["method.tau=0.3:3:log", "method.mix=0:1"]), {"method.tau"}).space
    assert found["method.tau"] == (0.3, 3.0, "log")
    assert found["method.mix"] == (0.0, 1.0, "linear")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["method.taw=0.1:1"], "no option 'method.taw' to vary; did you mean 'method.tau'"),
        (["method.layers=0:1"], "method.layers cannot be varied"),
        (["data.batch_size=1:8"], "data.batch_size cannot be varied"),
        (["method.tau=1"], "a range is FIELD=LOW:HIGH"),
        (["method.tau=1:x"], "a range is FIELD=LOW:HIGH"),
        (["method.tau=3:1"], "the range of method.tau must go from a lower to a higher number"),
        (["method.tau=0:1:log"], "must go from a lower to a higher number and above 0"),
        (["method.tau=0.1:1:lin"], "the scale of method.tau is log or linear"),
        (["method.angle=0.1:1:log"], "method.angle is 0 to start with"),
    ],
)
def test_faulty_ranges_are_refused(words, says):
    with pytest.raises(UserError, match=says.replace("[", r"\[")):
        tune_request(default_run("innerpo"), read_ranges(words))


# -- the parts and the measure -----------------------------------------------------------------------------------------


@settings_(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.integers(0, 9), min_size=1, max_size=40), st.integers(0, 12), st.integers(0, 3))
def test_no_prompt_is_in_both_parts(prompts, n, seed):
    pair = make_pairs(1)[0]
    pairs = [replace(pair, id=str(i), cluster=str(prompt)) for i, prompt in enumerate(prompts)]
    if not 0 < n < len(set(prompts)):
        with pytest.raises(UserError, match="both parts need at least one"):
            hold_out(pairs, n, seed)
        return
    rest, held = hold_out(pairs, n, seed)
    assert sorted(rest + held, key=lambda p: int(p.id)) == pairs
    assert len({p.cluster for p in held}) == n
    assert not {p.cluster for p in held} & {p.cluster for p in rest}
    again = hold_out(list(reversed(pairs)), n, seed)[1]  # it depends on the prompts, not on their order
    assert {p.cluster for p in again} == {p.cluster for p in held}


def test_the_measure_by_hand():
    """Two pairs: one right, one wrong; 8 nats of drift on 10 + 10 + 4 + 8 tokens."""
    logps = {"a": [-10.0, -20.0], "b": [-8.0, -4.0]}
    tokens = {"a": [10, 10], "b": [4, 8]}  # means -1 over -2: right; -2 over -0.5: wrong
    drift = {"a": [1.0, 2.0], "b": [2.0, 3.0]}
    rows = [
        dict.fromkeys(RESPONSES, "x")
        | {"model": model, "strength": s, "set": "v", "prompt": p, "response": i, "logp": logps[p][i]}
        | {"tokens": tokens[p][i], "characters": 1, "inner": 0.0, "abs_log_ratio": drift[p][i] * s}
        for model, s in (("base", 0.0), ("policy", 1.0))
        for p in "ab"
        for i in (0, 1)
    ]
    pairs = [{"set": "v", "pair": p, "prompt": p, "chosen": 0, "rejected": 1} for p in "ab"]
    scores = Scores(pl.DataFrame(rows, RESPONSES), pl.DataFrame(pairs, PAIRS), pl.DataFrame(schema=SETS))
    assert measure_of(scores, "mean_logp", 0.0) == Measure(0.5, 0.5, 0.25)
    assert measure_of(scores, "mean_logp", 0.4) == Measure(0.4, 0.5, 0.25)
    assert measure_of(scores, "sum_logp", 0.0).accuracy == 0.5
    unknown = replace(scores, responses=scores.responses.with_columns(logp=pl.lit(float("nan"))))
    with pytest.raises(UserError, match="cannot be measured by mean_logp"):
        measure_of(unknown, "mean_logp", 0.0)


@pytest.mark.parametrize(("n", "steps"), [(0, ()), (2, ()), (3, (1, 2)), (4, (1, 3)), (30, (10, 20))])
def test_looks_lie_before_the_end(n, steps):
    assert pruning_steps(n) == steps


# -- trials ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Kills here end a process, not the machine: what was written need not reach the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    searched(folder, 12)
    return folder


def test_a_search_starts_from_the_defaults_and_finds_better(undisturbed):
    trials = read_trials(undisturbed)
    assert dict(trials[0].params) == {"training.lr": 2e-4, "method.beta": 0.1}
    assert best_of(trials).value > trials[0].value
    assert {t.state for t in trials} == {"complete", "pruned"}
    assert all(t.looks[2] == pytest.approx(value_of(request_of().config_of(t.params)) / 3) for t in trials)
    assert [p.name for p in leases(undisturbed).iterdir() if p.suffix == ".json"] == []
    assert not list((undisturbed / ".sweep" / "trials").iterdir())
    shares = importances(journal_of(undisturbed), trials, request_of())
    assert sum(shares.values()) == pytest.approx(1.0)


def test_a_trial_is_pruned_below_the_median_only(undisturbed):
    """Recomputed from the files: the best look of the trial against the median of whole trials before it."""
    trials = read_trials(undisturbed)
    for at, trial in enumerate(trials):
        whole = [t for t in trials[:at] if t.state == "complete"]
        for step, _ in trial.looks.items():
            others = sorted(t.looks[step] for t in whole)
            best = max(v for s, v in trial.looks.items() if s <= step)
            n = len(others)
            median = (others[(n - 1) // 2] + others[n // 2]) / 2 if others else -math.inf
            gives_up = n >= 5 and best < median
            assert gives_up == (trial.state == "pruned" and step == max(trial.looks))


def test_the_first_trial_which_all_are_compared_with_is_never_pruned(undisturbed, tmp_path):
    """Left unfinished, it is taken up when others are whole, and its looks are the lowest of all."""

    def stop(config, look):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        searched(tmp_path, 1, objective=stop)
    for trial in [t for t in read_trials(undisturbed) if t.state == "complete" and t.number > 0][:6]:
        write_trial(tmp_path, replace(trial, number=len(read_trials(tmp_path))))
    n = len(read_trials(tmp_path))
    assert n > 4
    trials = searched(tmp_path, n, objective=lambda c, look: pretend(c, lambda step, value: look(step, lambda: -9.0)))
    assert trials[0].state == "complete"
    assert set(trials[0].looks.values()) == {-9.0}


def test_suggestions_depend_on_seed_and_trials_only(undisturbed, tmp_path):
    trials = read_trials(undisturbed)
    first = suggest(tmp_path / "a", trials, request_of())
    assert suggest(tmp_path / "b", trials, request_of()) == first
    assert suggest(tmp_path / "a", trials, request_of()) == first  # the same journal again: it is brought back
    assert suggest(tmp_path / "c", trials, request_of(seed=1)) != first
    assert suggest(tmp_path / "d", trials[:-1], request_of()) == dict(trials[-1].params)


def _shorten(journal):
    journal.write_bytes(journal.read_bytes()[: journal.stat().st_size * 2 // 3])


def _lose_a_line(journal):
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[: len(lines) // 2] + lines[len(lines) // 2 + 1 :]))


def _of_another(journal):
    journal.unlink()
    searched(journal.parent / "other", 2, request_of(seed=9))
    (journal.parent / "other" / "journal.log").rename(journal)


DAMAGE = {
    "shortened": _shorten,
    "deleted": lambda journal: journal.unlink(),
    "empty": lambda journal: journal.write_bytes(b""),
    "not_a_journal": lambda journal: journal.write_bytes(b"met\n\x00\xff\n"),
    "a_line_lost": _lose_a_line,
    "whole_lines_lost": lambda journal: journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:9])),
    "of_another_search": _of_another,
    "locked_by_the_dead": lambda journal: (journal.parent / "journal.log.lock").symlink_to("nowhere"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_torn_journal_is_rebuilt_from_the_trials(damage, undisturbed, tmp_path):
    trials = read_trials(undisturbed)[:-1]
    shutil.copy(journal_of(undisturbed), journal_of(tmp_path))
    DAMAGE[damage](journal_of(tmp_path))
    assert suggest(journal_of(tmp_path), trials, request_of()) == dict(read_trials(undisturbed)[-1].params)


def test_a_search_goes_on_without_its_journal(undisturbed, tmp_path):
    searched(tmp_path, 6)
    _shorten(journal_of(tmp_path))
    searched(tmp_path, 7)
    journal_of(tmp_path).unlink()
    assert facts(searched(tmp_path, 8)) == facts(read_trials(undisturbed))[:8]


@FORK
@pytest.mark.parametrize(("trial", "step"), [(0, 1), (5, 3)])
def test_a_killed_trial_is_tried_again_once_with_the_same_values(trial, step, undisturbed, tmp_path):
    process = multiprocessing.get_context("fork").Process(target=killed_in, args=(tmp_path, 7, trial, step))
    process.start()
    process.join(60)
    assert process.exitcode == -9
    assert read_trials(tmp_path)[-1].number == trial
    assert not read_trials(tmp_path)[-1].has_ended
    done = []
    found = searched(tmp_path, 7, each=lambda t: done.append(t.number))
    assert done == list(range(trial, 7))  # what had ended is not done again
    assert facts(found) == facts(read_trials(undisturbed))[:7]
    assert not list((tmp_path / ".sweep" / "trials").iterdir())


@FORK
def test_two_processes_share_a_search(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=searched, args=(tmp_path, 6)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(100)
        assert process.exitcode == 0
    found = read_trials(tmp_path)
    assert len(found) == 6
    assert all(t.has_ended for t in found)


def test_an_interrupted_trial_goes_on_and_its_looks_are_not_measured_again(tmp_path):
    def stop(config, look):
        look(2, lambda: 0.25)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        searched(tmp_path, 1, objective=stop)
    asked = []

    def go_on(config, look):
        assert (config.run_dir.parent.name, config.training.resume) == ("2", True)
        look(2, lambda: asked.append(2) or 0.0)
        return Measure(0.5, 0.5, 0.1, 3)

    (trial,) = searched(tmp_path, 1, objective=go_on)
    assert (dict(trial.looks), asked, trial.value) == ({2: 0.25}, [], 0.5)


def test_a_failed_trial_is_kept_and_the_search_goes_on(tmp_path):
    def objective(config, look):
        if config.training.lr != 2e-4 and not list((tmp_path / "trials").glob("0002.json")):
            raise UserError("the loss is not\nfinite")
        return pretend(config, look)

    found = searched(tmp_path, 4, objective=objective)
    assert [t.state for t in found] == ["complete", "failed", "complete", "complete"]
    assert found[1].error == "the loss is not finite"
    assert math.isnan(found[1].value)


@pytest.mark.parametrize("error", [UserError("no"), MachineError("no space left")])
def test_where_the_first_trial_fails_there_is_nothing_to_search(error, tmp_path):
    def objective(config, look):
        raise error

    with pytest.raises(type(error)):
        searched(tmp_path, 4, objective=objective)
    assert [t.state for t in searched(tmp_path, 2)] == ["complete", "complete"]  # once it is mended


@pytest.mark.parametrize("fault", [MachineError("no space left"), torch.OutOfMemoryError("of 80 GB")])
def test_a_fault_of_the_machine_leaves_the_trial_open(fault, tmp_path):
    searched(tmp_path, 2)

    def objective(config, look):
        raise fault

    with pytest.raises(type(fault)):
        searched(tmp_path, 3, objective=objective)
    assert read_trial(tmp_path, 2).state == "running"


def test_the_budget_counts_what_was_done_before(tmp_path):
    spent = [Trial(0, {}, "complete", 0.5, seconds=30.0), Trial(1, {}, "failed", seconds=30.0)]
    assert Budget(2).is_spent(spent)
    assert not Budget(3).is_spent(spent)
    assert Budget(9, 60.0).is_spent(spent)
    assert not Budget(9, 61.0).is_spent(spent)
    searched(tmp_path, 3)
    assert len(work(tmp_path, request_of(), Budget(9, 1e-9), pretend)) == 3


def test_records_survive_writing_and_damage_is_named(tmp_path):
    trial = Trial(0, {"training.lr": 1 / 3}, "pruned", 0.1, looks={4: 0.1}, seconds=2.5)
    write_trial(tmp_path, trial)
    assert facts(read_trials(tmp_path)) == facts([trial])
    assert math.isnan(read_trial(tmp_path, 0).accuracy)
    write_trial(tmp_path, replace(trial, number=2))
    with pytest.raises(UserError, match=r"0001\.json is missing"):
        read_trials(tmp_path)
    (tmp_path / "trials" / "0001.json").write_text('{"number": 1')
    with pytest.raises(UserError, match=r"0001\.json is no record of a trial"):
        read_trials(tmp_path)


def test_of_equal_trials_the_first_is_best():
    trials = [Trial(0, {}, "complete", 0.5), Trial(1, {}, "pruned", 0.9), Trial(2, {}, "complete", 0.5)]
    assert best_of(trials).number == 0
    assert best_of(trials[1:2]) is None


def test_another_search_in_the_folder_is_refused(tmp_path):
    keep_request(tmp_path, request_of(), {"data": "a"})
    keep_request(tmp_path, request_of(), {"data": "a"})
    with pytest.raises(UserError, match=r"another search .*'a', here 'b'"):
        keep_request(tmp_path, request_of(), {"data": "b"})
    for other in (
        request_of(seed=1),
        request_of(drift_penalty=0.1),
        request_of("ipo"),
        request_of(fixed={"method.beta"}),
    ):
        with pytest.raises(UserError, match="another search"):
            keep_request(tmp_path, other, {"data": "a"})


def test_what_differs_is_named_by_its_field_and_ids_are_those_of_todays_code(tmp_path):
    keep_request(tmp_path, request_of(), {"data": "a"})
    held = json.loads((tmp_path / "tune.json").read_text())
    (tmp_path / "tune.json").write_text(json.dumps(held | {"run_id": "of an older release"}))
    keep_request(tmp_path, request_of(), {"data": "a"})
    config = request_of().config
    other = replace(request_of(), config=replace(config, training=replace(config.training, epochs=7.0)))
    with pytest.raises(UserError, match=rf"another search \(training.epochs is {config.training.epochs}, here 7.0\)"):
        keep_request(tmp_path, other, {"data": "a"})
    (tmp_path / "tune.json").write_text(json.dumps(held | {"config": {}, "run_id": "unknown"}))
    with pytest.raises(UserError, match=r"another search \(run_id is 'unknown', here"):
        keep_request(tmp_path, request_of(), {"data": "a"})


def test_the_page_is_old_where_a_trial_was_written_after_it(tmp_path):
    """Killed between the file of a trial and what follows from it."""
    assert _is_old(tmp_path)
    write_trial(tmp_path, Trial(0, {}))
    for name in ("result.json", "report.html"):
        (tmp_path / name).write_text("")
    now = time.time()
    for name, age in (("trials/0000.json", 30), ("result.json", 20), ("report.html", 10)):
        os.utime(tmp_path / name, (now - age,) * 2)
    assert not _is_old(tmp_path)
    os.utime(tmp_path / "trials/0000.json", (now,) * 2)
    assert _is_old(tmp_path)


def test_a_lost_accelerator_leaves_the_trial_open(tmp_path):
    def lost(config, look):
        if len(read_trials(tmp_path)) > 1:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return Measure(0.5, 0.5, 0.0, 1)

    keep_request(tmp_path, request_of(), {"data": "a"})
    with pytest.raises(RuntimeError, match="illegal memory access"):
        work(tmp_path, request_of(), Budget(3), lost)
    assert [trial.state for trial in read_trials(tmp_path)] == ["complete", "running"]
    for state in ("running", "failed"):  # at the third time it is the trial
        with pytest.raises(RuntimeError, match="illegal memory access"):
            work(tmp_path, request_of(), Budget(3), lost)
        assert read_trial(tmp_path, 1).state == state


# -- the whole ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def genies(tmp_path):
    """A source whose test split, and a target whose both splits, cannot be read."""
    rows = [
        {"prompt": f"{p.prompt} ({i})", "responses": {p.chosen: 1.0, p.rejected: 0.0}}
        for i, p in enumerate(make_pairs(12))
    ]
    folder = tmp_path / "genies" / "distributions"
    for name in ("math", "change_my_view", "us_history", "arc_easy"):
        (folder / name).mkdir(parents=True)
        for split in ("train", "test"):
            (folder / name / f"{split}.json").write_bytes(b"\xff not to be read")
    (folder / "math" / "train.json").write_text(json.dumps(rows))
    return tmp_path / "genies"


WATCHED = {"folder": "", "opened": []}


def _watch(event, args):
    if WATCHED["folder"] and event == "open" and str(args[0]).startswith(WATCHED["folder"]):
        WATCHED["opened"].append(str(args[0]))


@pytest.fixture(scope="module")
def hook():
    sys.addaudithook(_watch)  # it cannot be taken away again, but is deaf outside the test


def test_the_objective_reaches_no_target(genies, hook, tmp_path, toy_folder, monkeypatch, capsys):
    loaded = []
    for kind in SOURCES:
        real = resolve(SOURCES, kind, "source")

        def spy(name, split, data, bad, real=real):
            loaded.append((name, split))
            return real(name, split, data, bad)

        monkeypatch.setitem(SOURCES, kind, spy)
    monkeypatch.setitem(WATCHED, "opened", [])
    monkeypatch.setitem(WATCHED, "folder", str(genies))
    out = tmp_path / "out"
    words = ["--data.dataset=math", f"--data.genies_dir={genies}", f"--data.cache_dir={tmp_path}/cache", "--trials=2"]
    words += ["--data.batch_size=3", f"--model.base_model={toy_folder}", "--model.dtype=float32", f"--out={out}"]
    words += ["--training.save_steps=0", "--validation=4", "--drift-penalty=0.1", "--method.beta=0.2"]
    assert main(["tune", "dpo", *words]) == 0
    monkeypatch.setitem(WATCHED, "folder", "")
    assert set(loaded) == {("math", "train")}
    assert {path.removeprefix(f"{genies}/distributions/") for path in WATCHED["opened"]} == {"math/train.json"}
    shown = capsys.readouterr().out
    assert "2 trials" in shown
    assert "4 validation prompts" in shown
    _check_what_is_found(out)
    held = (out / "trials" / "0000.json").read_bytes()
    assert main(["tune", "dpo", *words]) == 0  # the budget is spent: nothing is done again
    assert (out / "trials" / "0000.json").read_bytes() == held
    assert main(["tune", "dpo", *words, "--seed=3"]) == 2
    assert "holds trials of another search (seed is 0, here 3)" in capsys.readouterr().err.replace("\n", " ")


def _check_what_is_found(out):
    trials = read_trials(out)
    best = best_of(trials)
    assert best.value == pytest.approx(best.accuracy - 0.1 * best.drift)
    config = overlay(default_run("dpo"), read_yaml(out / "best.yaml"), "best")
    assert config.training.lr == best.params["training.lr"]
    assert list(best.params) == ["training.lr"]
    assert config.method.beta == 0.2  # given, so not varied
    assert config.training.tuned["trials"] == 2.0
    assert config.training.tuned["prompts"] == 4.0
    result = json.loads((out / "result.json").read_text())
    assert result["budget"] == config.training.tuned
    assert result["start"]["params"] == {"training.lr": 2e-4}
    page = (out / "report.html").read_text()
    assert "Tuning of dpo on math" in page
    assert "Trial 0 has the values to start from." in page


def test_without_optuna_one_line_says_what_to_install(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.chdir(tmp_path)
    assert main(["tune", "dpo", "--data.dataset=embedded:compare"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "error: tuning needs Optuna, which is not installed: pip install 'innerpo[tune]'"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["probe"], "probe has no option to vary"),
        (["dpo", "--trials=0"], "trials must be at least 1"),
        (["dpo", "--timeout=-1"], "timeout must not be negative"),
        (["dpo", "--validation=1.5"], "validation must be a share of the prompts"),
        (["dpo", "--drift-penalty=-1"], "drift_penalty must not be negative"),
        (["dpo", "--scorer=mean_lop"], "unknown scorer 'mean_lop'"),
        (["dpo", "--scorer=inner"], "the scorer inner needs directions"),
        (["dpo", "--ranges", "method.tau"], "a range is FIELD=LOW:HIGH"),
        (["dpo", "--validation=9999"], "cannot hold out"),
    ],
)
def test_faults_of_a_person_are_one_line_and_code_2(words, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    more = ["--data.dataset=embedded:compare", "--eval.max_prompts=0"]
    assert main(["tune", *words, *more]) == 2
    assert says in capsys.readouterr().err.replace("\n", " ")
    assert not list(tmp_path.iterdir())


def test_tables_name_the_budgets_of_tuning(tmp_path):
    made = [run_of(tmp_path, name, 1, [1, 1, 0], [1, 0, 0], [1, 0, 0], [1, 0, 0]) for name in ("dpo", "ipo", "sft")]
    for folder, seconds in zip(made[:2], (61.0, 70.4), strict=True):
        tuned = {"trials": 20.0, "seconds": seconds, "prompts": 50.0}
        (folder / "run.json").write_text(json.dumps({"n_pairs": 3, "steps": 1, "tuned": tuned}))
    notes = innerpo.table([str(f) for f in made]).notes
    assert any(n.endswith("20 trials on 50 validation prompts: dpo (61 s), ipo (70 s)") for n in notes)
    assert any(n.startswith("not tuned on ") and n.endswith(": sft") for n in notes)


@pytest.mark.parametrize(
    ("data", "texts", "says"),
    [
        ("truthful_qa", "alpaca_mmlu", "is a target of truthful_qa"),
        ("truthful_qa", "genies:alpaca_mmlu", "is a target of truthful_qa"),
        ("truthful_qa", "truthful_qa", "has the held"),
        ("hub:owner/name", "owner/name:config", "has the held"),
        ("truthful_qa", "wassname/genies_preferences:alpaca_mmlu", "is a target of truthful_qa"),
        ("wassname/genies_preferences:truthful_qa", "truthful_qa", "has the held"),
        ("pairs.jsonl", "files:./pairs.jsonl", "has the held"),
    ],
)
def test_anchors_on_texts_that_a_search_must_not_see_are_refused(data, texts, says, tmp_path):
    options = {"method.anchor_data": texts}
    with pytest.raises(UserError, match=f"method.anchor_data={texts} {says}"):
        innerpo.tune(None, "anchor-kl", data=data, out=tmp_path, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_best_of_15_trials_beats_the_defaults_on_the_embedded_shift(tmp_path):
    """SmolLM2-135M, few pairs and steps. What is compared is the search's own measure, as it is chosen by it."""
    base = innerpo.load_base("smollm2-135m", dtype="float32")
    options = {"data.max_train_prompts": 32, "data.batch_size": 8, "eval.max_prompts": 40, "training.save_steps": 0}
    options["prune"] = False  # of trials of 4 steps, looks would be the most work
    found = innerpo.tune(base, "dpo", data="embedded:compare", trials=15, out=tmp_path / "out", **options)
    assert len(found.trials) == 15
    assert found.best.value > found.start.value


def test_from_python_on_a_base_in_memory(tmp_path):
    options = {"data.max_train_prompts": 3, "data.batch_size": 3, "eval.max_prompts": 3, "training.save_steps": 0}
    options["data.cache_dir"] = str(tmp_path / "cache")
    base = any_base()
    options["eval.steer"] = 2.0  # no part of what a trial measures
    found = innerpo.tune(base, "innerpo-none", data="embedded:compare", trials=1, out=tmp_path / "out", **options)
    assert found.best == found.start
    assert not found.importance
    assert found.config.data.max_train_prompts == 3
    assert not hasattr(base.model, "peft_config")
