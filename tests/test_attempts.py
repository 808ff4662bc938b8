"""Attempts at the runs of a sweep: published by one rename, taken up where they stopped, their failures kept."""

import json
import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace

import pytest

from innerpo.cli.sweep_runs import finish
from innerpo.errors import FailedRunsError, MachineError, UserError, is_device_lost
from innerpo.evaluation.headline_files import scores_folder
from innerpo.evaluation.sweep_folder import failed_runs
from innerpo.experiments.archive import Archive
from innerpo.experiments.attempt import failure_of, forget_failure, record_failure, swept
from innerpo.experiments.layout import attempts, failures, leases
from innerpo.experiments.lease import last_holder, lease
from innerpo.experiments.plan import Plan
from innerpo.experiments.status import ARCHIVED, Watch, expected_seconds
from innerpo.experiments.sweep import Started, prepare
from innerpo.experiments.worker import Bases, run_one, work
from innerpo.training.run_folder import OtherInputsError
from sweep_helpers import any_base, plan_in, planned, pretend, unscored

FORK = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@pytest.fixture
def bases():
    return Bases(any_base())


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def refused(config, base):
    raise AssertionError("this run was to be left alone")


def steps(folder):
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def hidden(folder):
    return [p for p in folder.rglob(".*") if ".sweep" not in p.parts]


def test_a_run_lands_whole_in_its_folder_and_leaves_nothing_else(out, bases):
    (run,) = plan_in(out, *unscored(1, row="mine")).runs
    outcome = run_one(run, out, bases, train=pretend)
    assert (outcome.kind, outcome.folder) == ("done", out / run.name)
    assert steps(outcome.folder) == [0, 1, 2]
    assert f"output_dir: {out}\n" in (outcome.folder / "config.yaml").read_text()
    assert swept(outcome.folder)["row"] == "mine"
    assert swept(outcome.folder)["seconds"] > 0.0
    assert not list(attempts(out).glob("*/*"))
    assert [p.name for p in leases(out).iterdir()] == [f"{run.name}.lock"]
    assert run_one(run, out, bases, train=refused).kind == "kept"


def test_an_interrupted_run_is_taken_up(out, bases):
    (run,) = plan_in(out, *unscored(1)).runs

    def stop(step):
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_one(run, out, bases, train=lambda config, base: pretend(config, between=stop))
    assert not (out / run.name).exists()
    begun = []
    run_one(run, out, bases, train=lambda config, base: (begun.append(config.training), pretend(config)))
    assert begun[0].resume
    assert steps(out / run.name) == [0, 1, 2]


def test_an_attempt_that_had_not_begun_and_torn_files_are_no_hindrance(out, bases):
    (run,) = plan_in(out, *unscored(1)).runs
    torn = attempts(out) / "4" / run.name
    torn.mkdir(parents=True)
    (torn / ".config.yaml.abc.yaml").write_text("met")

    def train(config, base):
        pretend(config)
        (config.run_dir / ".run.json.xyz").write_text("{")
        (config.run_dir / ".adapter.xyz").mkdir()

    assert run_one(run, out, bases, train=train).kind == "done"
    assert not hidden(out)


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (UserError("data.dataset is empty"), "user", "data.dataset is empty"),
        (MachineError("no space left"), "machine", "no space left"),
        (RuntimeError("shape\nmismatch"), "error", "RuntimeError: shape mismatch"),
        (MemoryError(), "machine", "MemoryError"),
    ],
)
def test_a_failure_is_kept_and_tried_again_on_request_only(out, bases, error, kind, says):
    (run,) = plan_in(out, *unscored(1)).runs

    def fail(config, base):
        def at_second(step):
            if step == 1:
                raise error

        pretend(config, between=at_second)

    assert run_one(run, out, bases, train=fail).kind == "failed"
    failure = failure_of(out, run)
    assert (failure.kind, failure.error) == (kind, says)
    assert ("at_second" in failure.trace) == (kind != "user")
    work(plan_in(out, run), out, any_base(), train=refused)  # it is not tried again
    forget_failure(out, run)
    assert failure_of(out, run) is None
    assert bool(list(attempts(out).glob("*/*"))) == (kind == "machine")  # else from the start
    assert (last_holder(out, run.name) is not None) == (kind == "machine")  # and without the time of what is gone
    work(plan_in(out, run), out, any_base(), train=pretend)
    assert steps(out / run.name) == [0, 1, 2]


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        type("AcceleratorError", (RuntimeError,), {})("CUDA error: uncorrectable ECC error encountered"),
    ],
)
def test_a_lost_accelerator_is_no_failure_of_the_run(out, error):
    """It would fail all later runs of the process, which ends; the run goes on from what there is in another one."""
    runs = plan_in(out, *unscored(2))

    def fail(config, base):
        def at_second(step):
            if step == 1:
                raise error

        pretend(config, between=at_second)

    with pytest.raises(
        MachineError, match=r"the accelerator failed at .* \(CUDA error: .*\); only a new process"
    ) as caught:
        work(runs, out, any_base(), train=fail)
    assert runs.runs[0].name in str(caught.value)
    assert [failure_of(out, run) for run in runs.runs] == [None, None]
    assert not (out / runs.runs[1].name).exists()
    work(runs, out, any_base(), train=pretend)
    assert steps(out / runs.runs[0].name) == [0, 1, 2]


@pytest.mark.parametrize(
    "error",
    [
        OutOfMemoryError("CUDA"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("size mismatch"),
    ],
)
def test_other_errors_of_torch_do_not_mean_that_the_accelerator_is_lost(error):
    assert not is_device_lost(error)


def test_an_attempt_on_other_data_is_refused_with_the_sweeps_own_remedy(out, bases):
    (run,) = plan_in(out, *unscored(1)).runs
    outcome = run_one(run, out, bases, train=fails(OtherInputsError("start again with training.overwrite")))
    assert outcome.failure.kind == "user"
    assert "by the option retry_failed" in outcome.failure.error
    assert "overwrite" not in outcome.failure.error


def fails(error):
    def train(config, base):
        raise error

    return train


def test_a_failure_is_that_of_what_was_asked_for(out):
    """A set's name is mistyped, and mended: the run is tried, and the old error is gone."""
    (wrong,) = plan_in(out, *unscored(1, **{"eval.sets": ["tset"]})).runs
    (right,) = plan_in(out, *unscored(1, **{"eval.sets": ["test"]})).runs
    assert wrong.name == right.name
    assert wrong.request != right.request
    assert replace(wrong, config=replace(wrong.config, output_dir=out / "moved")).request == wrong.request
    work(plan_in(out, wrong), out, any_base(), train=fails(UserError("there is no set 'tset'")))
    assert [r.state for r in Watch(plan_in(out, right), out).look().runs] == ["waiting"]
    plan = prepare(plan_in(out, right), out)
    assert not list(failures(out).iterdir())
    work(plan, out, any_base(), train=pretend)
    assert steps(out / right.name) == [0, 1, 2]


def test_two_targets_of_one_run_fail_on_their_own(out):
    both = plan_in(out, *unscored(1, **{"eval.sets": ["test"]}), *unscored(1, **{"eval.sets": ["oos"]}))
    first, second = both.runs
    assert first.name == second.name

    def train(config, base):
        if config.eval.sets == ("test",):
            raise RuntimeError("no")
        pretend(config)

    work(plan_in(out, first), out, any_base(), train=train)
    assert (failure_of(out, first).trained, failure_of(out, second)) == (False, None)
    prepare(both, out)  # asks for both: the failure stays
    work(both, out, any_base(), train=train)
    assert failure_of(out, first) is not None
    assert steps(out / second.name) == [0, 1, 2]


def test_a_failed_second_scoring_is_told_until_it_is_done(out, monkeypatch):
    (run,) = plan_in(out, *unscored(1)).runs
    work(plan_in(out, run), out, any_base(), train=pretend)
    (scored,) = plan_in(out, planned(**{"eval.sets": ["oos"]})).runs
    assert scored.name == run.name
    monkeypatch.setattr("innerpo.run.evaluate", lambda *_, **__: fails(RuntimeError("no"))(None, None))
    work(plan_in(out, scored), out, any_base(), train=refused)
    assert failed_runs(out) == [f"{out / run.name} failed: RuntimeError: no"]
    monkeypatch.setattr("innerpo.run.evaluate", lambda *_, **__: None)
    work(prepare(plan_in(out, scored), out, retry_failed=True), out, any_base(), train=refused)
    assert failed_runs(out) == []


def test_scores_of_other_sets_than_are_asked_for_now_are_not_published_as_its_own(out, bases, monkeypatch):
    """A trained attempt whose scoring was cut short, and options of evaluation that changed before it is taken up."""
    (run,) = plan_in(out, *unscored(1)).runs

    def cut_short(config, base):
        pretend(config)
        (config.run_dir / "headline.json").write_text("{}")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_one(run, out, bases, train=cut_short)
    (fewer,) = plan_in(out, planned(**{"eval.max_prompts": 5})).runs
    assert fewer.name == run.name
    seen = []

    def train(config, base):
        seen.append(sorted(p.name for p in config.run_dir.iterdir() if p.name.startswith("headline")))
        assert scores_folder(config.run_dir, config) == config.run_dir

    assert run_one(fewer, out, bases, train=train).kind == "done"
    assert seen == [[]]


def test_a_failure_that_another_process_recorded_meanwhile_is_not_tried_again(out, bases, monkeypatch):
    """It is written between this one's first look and its lease."""
    (run,) = plan_in(out, *unscored(1)).runs
    asked = []

    @contextmanager
    def late(folder, name, stale):
        asked.append(name)
        with lease(folder, name, stale) as held:
            if len(asked) == 1:
                record_failure(out, run, ValueError("of another"))
            yield held

    monkeypatch.setattr("innerpo.experiments.worker.lease", late)
    heard = []
    work(plan_in(out, run), out, any_base(), train=refused, each=lambda _, outcome: heard.append(outcome))
    assert [(o.kind, o.failure.error) for o in heard] == [("failed", "ValueError: of another")]


def test_a_run_in_work_loses_nothing_to_another_sweep_that_tries_failed_runs_again(out, bases):
    (run,) = plan_in(out, *unscored(1)).runs
    record_failure(out, run, ValueError("no"))
    with lease(out, run.name) as held:
        begun = attempts(out) / str(held.number) / run.name
        begun.mkdir(parents=True)
        prepare(plan_in(out, run), out, retry_failed=True)
        assert begun.is_dir()
        assert failure_of(out, run) is not None
    prepare(plan_in(out, run), out, retry_failed=True)
    assert not begun.exists()
    assert failure_of(out, run) is None


@pytest.mark.parametrize("error", [OutOfMemoryError("CUDA"), RuntimeError("scorer"), UserError("scorer")])
def test_a_training_whose_scoring_failed_is_kept(out, bases, error):
    (run,) = plan_in(out, *unscored(1)).runs

    def train(config, base):
        pretend(config)
        raise error

    assert run_one(run, out, bases, train=train).failure.kind == {"CUDA": "machine"}.get(
        str(error), "user" if isinstance(error, UserError) else "error"
    )
    forget_failure(out, run)
    begun = []
    work(plan_in(out, run), out, any_base(), train=lambda config, base: begun.extend(config.run_dir.iterdir()))
    assert "run.json" in {p.name for p in begun}
    assert steps(out / run.name) == [0, 1, 2]


def test_a_run_that_failed_on_files_that_cannot_be_read_has_failed(out, monkeypatch):
    (run,) = plan_in(out, *unscored(1)).runs
    unreadable = fails(UserError("cannot read responses.parquet as scores"))
    for module in ("worker", "status"):
        monkeypatch.setattr(f"innerpo.experiments.{module}.is_done", unreadable)
    (before,) = Watch(plan_in(out, run), out).look().runs
    assert (before.state, before.note) == ("waiting", "cannot read responses.parquet as scores")
    work(plan_in(out, run), out, any_base(), train=refused)
    status = Watch(plan_in(out, run), out).look()
    assert [(r.state, r.note) for r in status.runs] == [("failed", "cannot read responses.parquet as scores")]
    with pytest.raises(FailedRunsError, match="1 of 1 runs failed"):
        finish(status, "text", [str(out)])


def test_a_sweep_that_ends_with_open_runs_has_not_succeeded(out):
    status = Watch(plan_in(out, *unscored(2)), out).look()
    with pytest.raises(FailedRunsError, match="2 of 2 runs are not done: dpo_"):
        finish(status, "text", [str(out)])


def test_the_table_of_a_sweep_is_of_its_own_scored_runs(out):
    """A run that was not to be scored, and another program's run in the same folder, are no fault of the sweep."""
    skipped, other = unscored(2)
    scored = planned(seed=3)
    for run in plan_in(out, skipped, other, scored).runs:
        pretend(run.config)
    started = Started(plan_in(out, skipped, scored), Plan(()), out, Archive(None), ())
    assert started.scored() == [out / scored.name]


def test_one_fails_and_the_others_are_done(out):
    plan = plan_in(out, *unscored(3))

    def train(config, base):
        if config.training.seed == 2:
            raise ValueError("no")
        pretend(config)

    heard = []
    work(plan, out, any_base(), train=train, each=lambda planned, outcome: heard.append(outcome.kind))
    assert heard == ["done", "failed", "done"]
    status = Watch(plan, out).look()
    assert [r.state for r in status.runs] == ["done", "failed", "done"]
    assert [r.note for r in status.failed] == ["ValueError: no"]


def test_what_another_program_began_is_left_alone(out, bases):
    (run,) = plan_in(out, *unscored(1)).runs
    (out / run.name).mkdir(parents=True)
    assert run_one(run, out, bases, train=pretend).kind == "failed"
    assert "holds a run that another program began" in failure_of(out, run).error
    assert not list((out / run.name).iterdir())


def test_who_was_taken_over_drops_its_work(out, bases):
    """A process that was suspended wakes up when another has its run: neither failure nor run is written."""
    (run,) = plan_in(out, *unscored(1)).runs

    def train(config, base):
        pretend(config)
        number = int(config.output_dir.name)
        (leases(out) / f"{run.name}.{number + 1}.json").write_text("{}")

    assert run_one(run, out, bases, train=train).kind == "taken"
    assert failure_of(out, run) is None
    assert not (out / run.name).exists()


def test_a_run_that_another_is_at_is_waited_for(out, monkeypatch):
    monkeypatch.setattr("innerpo.experiments.worker.POLL", 0.01)
    plan = plan_in(out, *unscored(2))
    first, second = plan.runs
    with lease(out, first.name):
        work(plan, out, any_base(), train=pretend, wait=False)
        assert not (out / first.name).exists()
        assert (out / second.name).exists()
        assert [r.state for r in Watch(plan, out).look().runs] == ["running", "done"]
    work(plan, out, any_base(), train=pretend)
    assert (out / first.name).exists()


def test_the_time_that_is_left_is_that_of_past_runs(out):
    plan = plan_in(out, *unscored(3), *unscored(1, method="ipo"))
    work(plan_in(out, *plan.runs[:2]), out, any_base(), train=pretend)
    done = Watch(plan, out).look()
    took = [replace(run, seconds=seconds) for run, seconds in zip(done.runs, (2.0, 4.0, 1.0, 1.0), strict=True)]
    assert expected_seconds(plan.runs[2], took) == 3.0
    assert expected_seconds(plan.runs[3], took) == 3.0
    assert replace(done, runs=tuple(took)).seconds_left == 6.0
    elsewhere = [replace(took[0], note=ARCHIVED), *took[1:]]
    assert expected_seconds(plan.runs[2], elsewhere) == 4.0
    assert expected_seconds(plan.runs[2], elsewhere[:1]) == 2.0
    nothing = Watch(plan, out / "empty").look()
    assert nothing.seconds_left != nothing.seconds_left


# -- kills -------------------------------------------------------------------------------------------------------------


def slow_pretend(config, base):
    assert not (config.output_dir.parents[2] / config.run_name).exists(), "a finished run is done again"
    pretend(config, between=lambda step: time.sleep(0.004))


def child(plan, out):
    try:
        work(plan, out, any_base(), train=slow_pretend)
    except BaseException as error:
        (out.parent / f"died-{os.getpid()}").write_text(repr(error))
        raise


@FORK
@pytest.mark.parametrize(("n_kills", "n_runs"), [(8, 5), pytest.param(100, 40, marks=pytest.mark.slow)])
def test_kills_of_three_that_share_a_folder(out, monkeypatch, n_kills, n_runs):
    """Each SIGKILL hits a process that works on files alone, at any place of lease, attempt and publication."""
    monkeypatch.setattr("innerpo.experiments.worker.POLL", 0.01)
    plan = plan_in(out, *unscored(n_runs))
    out.mkdir(parents=True)
    context, chance = multiprocessing.get_context("fork"), random.Random(0)
    made = {}
    running, kills, unfinished = [], 0, 0
    while kills < n_kills:
        while len(running) < 3:
            running.append(context.Process(target=child, args=(plan, out)))
            running[-1].start()
        time.sleep(chance.uniform(0.0, 0.05))
        victim = running.pop(chance.randrange(3))
        if victim.is_alive():
            os.kill(victim.pid, signal.SIGKILL)
            kills += 1
            unfinished += len(made) < n_runs
        victim.join()
        for run in plan.runs:
            path = out / run.name / "run.json"
            if path.exists():
                assert made.setdefault(run.name, path.stat().st_ino) == path.stat().st_ino
    assert unfinished > n_kills // 2  # the others hit processes that had nothing left to do
    for process in running:
        process.join()
    work(plan, out, any_base(), train=slow_pretend)
    assert not list(out.parent.glob("died-*"))
    assert Counter(r.state for r in Watch(plan, out).look().runs) == {"done": n_runs}
    assert all(steps(out / run.name) == [0, 1, 2] for run in plan.runs)
    assert not hidden(out)
    assert not list(attempts(out).glob("*/*"))
