"""Sweeps as a person has them: one command, a table, what failed; killed, doubled, compared with single commands."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

import innerpo
from innerpo.cli.render_sweep import at_once
from innerpo.cli.verbs import main
from innerpo.config.run import default_run
from innerpo.errors import MachineError, UserError
from innerpo.evaluation.study import read_study
from innerpo.experiments import pool
from innerpo.experiments.attempt import record_failure
from innerpo.experiments.forecast import forecasts, most_memory, total_seconds
from innerpo.experiments.holder import machine
from innerpo.experiments.layout import attempts, failures, leases
from innerpo.experiments.plan import in_folder, read_plan
from innerpo.experiments.status import RunStatus, SweepStatus, Watch
from innerpo.experiments.study import study_of
from innerpo.experiments.sweep import find_study, prepare, sweep
from study_helpers import run_of
from sweep_helpers import any_base, planned, pretend

SHIFTS = ["embedded:compare", "embedded:longer"]


@pytest.fixture
def study(toy_folder, tmp_path):
    """Two methods, two embedded shifts, three seeds, small."""
    return {
        "models": [str(toy_folder)],
        "methods": ["dpo", {"method": "innerpo", "row": "ours"}],
        "datasets": SHIFTS,
        "seeds": [1, 2, 3],
        "options": {
            "data": {"cache_dir": str(tmp_path / "cache"), "max_train_prompts": 6, "batch_size": 3},
            "model": {"dtype": "float32"},
            "training": {"save_steps": 1},
            "eval": {"max_prompts": 4},
        },
        "strengths": [0.5, 1.0],
        "strength_sets": ["test", "oos"],
    }


@pytest.fixture
def file_of(tmp_path):
    def write(values, name="study.yaml"):
        path = tmp_path / name
        path.write_text(json.dumps(values))  # JSON is YAML
        return path

    return write


def table_of(folder, capsys):
    capsys.readouterr()
    code = main(["table", str(folder), "--format=json"])
    return code, capsys.readouterr().out


def files_of(folder):
    """All files of the runs of a sweep, with their contents' identity."""
    return {
        p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file() and ".sweep" not in p.parts
    }


# -- in this process ---------------------------------------------------------------------------------------------------


def test_a_study_from_python_with_a_base_in_memory(tmp_path, capsys):
    options = {"data.cache_dir": str(tmp_path / "cache"), "data.max_train_prompts": 4, "data.batch_size": 4}
    options |= {"eval.max_prompts": 3, "strengths": [0.5, 1.0], "strength_sets": ["test"], "training.lr": [1e-3]}
    options |= {"training.save_steps": 0}
    asked = {"methods": ["dpo"], "datasets": ["embedded:compare"]} | options
    status = innerpo.sweep(**asked, base=any_base(), output_dir=tmp_path / "out")
    assert [r.state for r in status.runs] == ["done"]
    assert not status.failed
    before = files_of(tmp_path / "out")
    innerpo.sweep(**asked, base=any_base(), output_dir=tmp_path / "out")
    assert files_of(tmp_path / "out") == before
    found = innerpo.table(tmp_path / "out")
    assert list(found.rows) == ["base", "dpo (lr=0.001)"]
    assert "trained on embedded:compare: 4 pairs, 1 steps" in found.notes
    assert "strengths: train, oos, rnd at 1; test at 0.5, 1" in found.notes
    assert any(note.startswith("scored: ") for note in found.notes)
    more = innerpo.sweep(**asked | {"strengths": [0.25, 0.5, 1.0]}, base=any_base(), output_dir=tmp_path / "out")
    assert [r.state for r in more.runs] == ["done"]
    test_rows = read_study(tmp_path / "out").responses.filter(set="test")
    assert sorted(test_rows["strength"].unique()) == [0.0, 0.25, 0.5, 1.0]


def test_a_failed_run_is_named_in_table_report_and_exit_code(study, file_of, tmp_path, capsys, monkeypatch):
    """Workers are spared here: their work is done in this process by runs that only write files."""
    skip = study | {"seeds": [1], "options": study["options"] | {"eval": {"skip": True}}}

    def train(config, base):
        if config.method.name == "dpo":
            raise RuntimeError("the disk is on fire")
        pretend(config)

    monkeypatch.setattr("innerpo.experiments.worker.Bases.of", lambda *_: any_base())

    def run(self, show):
        from innerpo.experiments.worker import work

        work(self.plan, self.folder, train=train)
        status = Watch(self.plan, self.folder).look()
        show(status)
        return status

    monkeypatch.setattr(pool.Pool, "run", run)
    out = tmp_path / "out"
    assert main(["sweep", str(file_of(skip)), f"--output_dir={out}"]) == 1
    said = capsys.readouterr().err
    assert "2 of 4 runs failed" in said
    assert "the disk is on fire" in said
    assert Counter(p.name.split("_")[0] for p in out.iterdir() if p.name != ".sweep") == {"innerpo-none": 2}
    assert main(["sweep", str(file_of(skip)), f"--output_dir={out}"]) == 1  # not tried again, still failed
    capsys.readouterr()
    assert main(["sweep", str(file_of(skip)), f"--output_dir={out}", "--dry-run"]) == 0
    assert "failed: RuntimeError: the disk is on fire" in re.sub(r"[│\s]+", " ", capsys.readouterr().out)


def test_a_table_names_the_failed_runs_of_a_sweep(tmp_path, capsys):
    line = one_of_two_failed(tmp_path)
    assert read_study(tmp_path).faults == (line,)
    code, _ = table_of(tmp_path, capsys)
    assert code == 2
    assert main(["table", str(tmp_path)]) == 2
    assert f"left out: {line}" in capsys.readouterr().out


@pytest.mark.slow
def test_a_report_names_the_failed_runs_of_a_sweep(tmp_path, capsys):
    line = one_of_two_failed(tmp_path)
    assert main(["report", str(tmp_path), f"--out={tmp_path}/report.html"]) == 2
    assert line in (tmp_path / "report.html").read_text()


def one_of_two_failed(tmp_path):
    run_of(tmp_path, "dpo", 1, [1, 1, 0], [1, 0, 0], [1, 0, 0], [1, 0, 0])
    (failures(tmp_path)).mkdir(parents=True)
    (failures(tmp_path) / "dpo_toy_seed2.json").write_text(json.dumps({"error": "out of luck"}))
    return f"{tmp_path}/dpo_toy_seed2 failed: out of luck"


def test_rows_that_a_sweep_names_never_join_runs_that_differ(tmp_path):
    made = [run_of(tmp_path, "dpo", 1, [1, 1], [1, 0], [1, 0], [1, 0])]
    made.append(run_of(tmp_path, "dpo", 1, [1, 0], [1, 0], [1, 0], [1, 0], lr=1e-3))
    for folder in made[1:]:
        (folder / "sweep.json").write_text('{"row": "dpo"}')
    found = read_study(made).runs["method"].to_list()
    assert found[0] == "dpo"
    assert re.fullmatch(r"dpo\+[0-9a-f]{8}", found[1])
    assert read_study(made[1:]).runs["method"].to_list() == ["dpo"]


def test_an_interrupt_says_how_to_go_on(study, file_of, tmp_path, capsys, monkeypatch):
    def stop(self, show):
        raise KeyboardInterrupt

    monkeypatch.setattr(pool.Pool, "run", stop)
    assert main(["sweep", str(file_of(study)), f"--output_dir={tmp_path / 'out'}"]) == 130
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: interrupted (0 of 12 runs done")
    assert last.endswith("the same command goes on where it stopped")


def test_a_dry_run_shows_needs_and_faults_and_writes_nothing(study, file_of, tmp_path, capsys):
    study["datasets"] = ["embedded:compare", "embedded:nothing"]
    assert main(["sweep", str(file_of(study)), f"--output_dir={tmp_path / 'out'}", "--dry-run", "--seeds", "1"]) == 2
    shown = capsys.readouterr()
    assert "ours" in shown.out
    assert "0 of 4 runs done, about " in shown.out
    assert len(re.findall(r"about \d+", shown.out)) == 3  # each run's, and all of them
    assert len(re.findall(r"\d GB", shown.out)) >= 3
    assert "memory of the largest run: " in shown.out
    assert shown.out.count("cannot begin") == 2
    assert "2 of 4 runs cannot begin; the first: dpo_embedded-nothing_seed1" in shown.err
    assert not (tmp_path / "out").exists()


def test_a_forecast_is_of_the_open_runs_and_takes_the_time_of_like_ones(study, tmp_path):
    plan = study_of(study | {"methods": ["dpo"]}, "s").plan
    first, second, third = plan.runs[:3]
    other = plan.runs[3]  # of the other data set
    found = forecasts(SweepStatus(tmp_path, tuple(RunStatus(run, "waiting") for run in (first, second, third))))
    assert set(found) == {run.id for run in (first, second, third)}
    assert len({(f.peak, f.seconds) for f in found.values()}) == 1  # planned once
    planned = found[first.id].seconds

    def seconds(*runs):
        status = SweepStatus(tmp_path, runs)
        found = forecasts(status)
        return {id: forecast.seconds for id, forecast in found.items()}, total_seconds(status, found)

    open_runs = RunStatus(second, "waiting"), RunStatus(third, "running")
    by_id, total = seconds(RunStatus(first, "done", seconds=7.0), *open_runs)
    assert by_id == {second.id: 7.0, third.id: 7.0}
    assert total == 7.0 + 3.5  # the running one is taken to be half done
    unlike = RunStatus(other, "done", seconds=5000.0), RunStatus(first, "done", 5000.0, "archived")
    by_id, total = seconds(*unlike, RunStatus(second, "waiting"))
    assert by_id[second.id] < 10 * planned
    failed = SweepStatus(tmp_path, (RunStatus(first, "failed"),))
    assert not forecasts(failed)
    assert set(forecasts(failed, retry_failed=True)) == {first.id}
    most, free = most_memory(found)
    assert 0 < most.peak < 4e9
    assert free > 0
    assert most_memory({}) is None


def test_a_trained_run_needs_scoring_alone(study, tmp_path):
    plan = in_folder(study_of(study | {"methods": ["dpo"], "seeds": [1]}, "s").plan, tmp_path)
    waiting = SweepStatus(tmp_path, tuple(RunStatus(run, "waiting") for run in plan.runs[:1]))
    (whole,) = forecasts(waiting).values()
    pretend(plan.runs[0].config)
    (rest,) = forecasts(waiting).values()
    assert not rest.fault
    assert rest.peak < whole.peak
    assert rest.seconds < 0.8 * whole.seconds


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--methods", "dpo"], "study names no datasets"),
        (["nothing.yaml"], "cannot read config file nothing.yaml"),
        (["--methods", "dpo", "--datasets", "math", "--workers=-1"], "workers must not be negative"),
        (["--methods", "dpo", "--datasets", "math", "--training.lrr", "1"], "there is no option --training.lrr"),
        (["--methodz", "dpo"], "there is no option --methodz"),
        (["a.yaml", "b.yaml"], "takes one study"),
    ],
)
def test_faults_of_a_person_are_one_line_and_code_2(words, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", *words]) == 2
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_worker_has_its_gpu_or_its_share_of_the_threads(monkeypatch):
    monkeypatch.setattr(pool, "cpus", lambda: 8)
    own = [pool.environment({"CUDA_VISIBLE_DEVICES": "2,5"}, place, 3) for place in range(3)]
    assert [e["CUDA_VISIBLE_DEVICES"] for e in own] == ["2", "5", "2"]
    assert {e["OMP_NUM_THREADS"] for e in own} == {"2"}
    assert pool.environment({"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}, 0, 2)["OMP_NUM_THREADS"] == "1"
    monkeypatch.setattr(pool, "gpus", lambda before: [])
    assert "CUDA_VISIBLE_DEVICES" not in pool.environment({}, 0, 1)
    assert pool.default_workers() == 1


@pytest.mark.parametrize(
    ("end", "says"),
    [
        ("    os.kill(os.getpid(), 9)", "signal 9, as the system kills what takes too much memory"),
        ("    raise RuntimeError('the accelerator failed')", "exit code 1"),  # which gives the lease back
    ],
)
def test_a_run_whose_worker_dies_again_and_again_has_failed(end, says, study, tmp_path, monkeypatch):
    """The worker is a program that takes the lease of the first run and ends."""
    plan = prepare(study_of(study, "s").plan, tmp_path / "out")
    first = plan.runs[0].name
    code = (
        "import os, pathlib, sys\nfrom innerpo.experiments.lease import lease\n"
        f"folder, name = pathlib.Path({str(tmp_path / 'out')!r}), {first!r}\n"
        f"if list((folder / '.sweep/failed').glob(f'{{name}}.*.json')): sys.exit(0)\n"
        f"with lease(folder, name):\n{end}\n"
    )

    def process(self, place, plan_id, out):
        return subprocess.Popen([sys.executable, "-c", code], stdout=out, stderr=out)

    monkeypatch.setattr(pool.Pool, "_process", process)
    status = pool.Pool(plan, tmp_path / "out", 1).run()
    assert [r.planned.name for r in status.failed] == [first]
    assert f"its process died 3 times ({says})" in status.failed[0].note


def deaths(monkeypatch, pool_, codes):
    """Workers that end at once with such exit codes, one after another; then with 0."""
    left = iter(codes)

    def process(self, place, plan_id, out):
        code = next(left, 0)
        end = f"import os, sys; os.kill(os.getpid(), {-code}) if {code} < 0 else sys.exit({code})"
        return subprocess.Popen([sys.executable, "-S", "-c", end], stdout=out, stderr=out)

    monkeypatch.setattr(pool.Pool, "_process", process)
    return pool_.run()


def test_workers_that_are_asked_to_end_are_replaced_however_often(study, tmp_path, monkeypatch):
    plan = prepare(study_of(study, "s").plan, tmp_path)
    status = deaths(monkeypatch, pool.Pool(plan, tmp_path, 1), [130, -15, 130, 130, -15, 130])
    assert status.count("waiting") == len(plan.runs)
    with pytest.raises(MachineError, match=r"workers die before they begin a run \(exit code 1\)"):
        deaths(monkeypatch, pool.Pool(plan, tmp_path, 1), [1, 130, 1, 1])


def test_a_fault_that_kills_every_worker_at_its_start_ends_the_sweep(study, tmp_path, monkeypatch):
    """A library that needs what the processor does not have, say; a few kills by others do not."""
    plan = prepare(study_of(study, "s").plan, tmp_path)
    assert deaths(monkeypatch, pool.Pool(plan, tmp_path, 1), [-4] * 29).count("waiting") == len(plan.runs)
    with pytest.raises(MachineError, match=r"workers die before they begin a run \(signal 4\)"):
        deaths(monkeypatch, pool.Pool(plan, tmp_path, 1), [-4] * 31)


def test_deaths_between_runs_count_until_a_run_has_ended(study, tmp_path):
    plan = prepare(study_of(study, "s").plan, tmp_path)
    dead = subprocess.Popen([sys.executable, "-S", "-c", "raise SystemExit(1)"])
    dead.wait()
    pool_, worker = pool.Pool(plan, tmp_path, 1), pool.Worker(0, dead, tmp_path / "log")
    watch = Watch(plan, tmp_path)
    for run in plan.runs[:3]:
        pool_._note_crash(worker, watch)
        pool_._note_crash(worker, watch)
        record_failure(tmp_path, run, ValueError("it ended"))
    for _ in range(2):
        pool_._note_crash(worker, watch)
    with pytest.raises(MachineError, match="workers die"):
        pool_._note_crash(worker, watch)


@pytest.mark.parametrize("n_more", [0, 3])
def test_interrupts_in_quick_succession_leave_no_worker_behind(n_more, study, tmp_path, monkeypatch):
    """Beside the first comes another at once, as polars raises one of its own; more come while workers are ended."""
    stubborn = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print(); time.sleep(60)"
    started_, before = [], signal.getsignal(signal.SIGINT)

    def process(self, place, plan_id, out):
        started_.append(subprocess.Popen([sys.executable, "-c", stubborn], stdout=subprocess.PIPE))
        started_[-1].stdout.readline()
        return started_[-1]

    def show(status):
        os.kill(os.getpid(), signal.SIGINT)
        monkeypatch.setattr(pool, "PATIENCE", 60.0 if n_more else 0.3)
        if n_more:
            monkeypatch.setattr(pool, "_signal", nagging)
        raise KeyboardInterrupt

    def nagging(workers, number):
        for _ in range(n_more):
            os.kill(os.getpid(), signal.SIGINT)
        for worker in workers:
            worker.process.send_signal(number)

    monkeypatch.setattr(pool.Pool, "_process", process)
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        pool.Pool(in_folder(study_of(study, "s").plan, tmp_path), tmp_path, 2).run(show)
    assert time.monotonic() - begun < 30.0
    assert [p.returncode for p in started_] == [-signal.SIGKILL] * 2
    assert signal.getsignal(signal.SIGINT) is before
    for p in started_:
        p.stdout.close()


# -- processes ---------------------------------------------------------------------------------------------------------


def started(path, out, *words):
    command = [sys.executable, "-m", "innerpo", "sweep", str(path), f"--output_dir={out}", *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def finish(process):
    said, _ = process.communicate(timeout=900)
    assert process.returncode == 0, said
    return said


def runs_of(out):
    return [p for p in out.iterdir() if p.name != ".sweep"] if out.is_dir() else []


def workers_of(process):
    """The processes that a process started and that live."""
    found = []
    for path in os.listdir("/proc"):  # noqa: PTH208
        if path.isdigit():
            try:
                with open(f"/proc/{path}/stat") as file:  # noqa: PTH123
                    fields = file.read().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == process.pid and fields[0] not in "ZX":
                found.append(int(path))
    return found


def kill(*pids):
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_in_the_middle_and_again_the_same_table_to_the_bit(study, file_of, tmp_path, capsys):
    path, whole, cut = file_of(study), tmp_path / "whole", tmp_path / "cut"
    said = finish(started(path, whole, "--workers=2"))
    assert "ours" in said
    assert "seeds 1, 2, 3" in said
    process = started(path, cut, "--workers=2")
    while len(runs_of(cut)) < 5:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    kill(process.pid, *workers_of(process))
    process.communicate()
    before = files_of(cut)
    assert 5 <= len(runs_of(cut)) < 12
    finish(started(path, cut, "--workers=2"))
    after = files_of(cut)
    assert all(after[p] == seen for p, seen in before.items())  # no finished run was touched
    assert {p.name for p in runs_of(cut)} == {p.name for p in runs_of(whole)}
    assert table_of(cut, capsys) == table_of(whole, capsys)
    adapters = [sorted(out.glob("*/adapter_model.safetensors")) for out in (cut, whole)]
    assert [p.read_bytes() for p in adapters[0]] == [p.read_bytes() for p in adapters[1]]


KILLS = 100


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_hundred_kills_of_workers_parents_and_both(study, file_of, tmp_path, capsys):
    """Each hits a real process at a random moment, in one sweep after another until there were enough."""
    small = study | {"seeds": [1, 2], "options": study["options"] | {"eval": {"max_prompts": 2}}}
    killer = Path(__file__).with_name("sweep_killer.py")
    command = [sys.executable, str(killer), str(file_of(small)), str(tmp_path), str(KILLS)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True)
    assert done.returncode == 0
    found = json.loads(done.stdout.splitlines()[-1])
    assert sum(found["kills"].values()) == KILLS
    assert min(found["kills"].values()) > KILLS // 6
    finish(started(file_of(small), tmp_path / "whole", "--workers=2"))  # by nobody disturbed
    tables = []
    for out in map(Path, [*found["folders"], str(tmp_path / "whole")]):
        plan = in_folder(find_study(file_of(small), {}, out).plan, out)
        assert [r.state for r in Watch(plan, out).look().runs] == ["done"] * len(plan.runs)
        assert sorted(p.name for p in runs_of(out)) == sorted(r.name for r in plan.runs)
        assert not [p for p in out.rglob(".*") if ".sweep" not in p.parts]
        assert not list(attempts(out).glob("*/*"))
        assert not list(failures(out).glob("*"))
        assert not [p for p in leases(out).iterdir() if p.suffix != ".lock"]
        tables.append(table_of(out, capsys))
    assert tables[0][0] == 0
    assert all(table == tables[0] for table in tables)  # to the bit, wherever the kills hit
    with capsys.disabled():
        print(f"\n{found['kills']} in {len(tables) - 1} sweeps of {len(plan.runs)} runs")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_sweeps_at_once_on_a_folder_with_a_dead_machines_lease(study, file_of, tmp_path):
    path, out = file_of(study), tmp_path / "out"
    plan = in_folder(find_study(path, {}, out).plan, out)
    leases(out).mkdir(parents=True)
    dead = {"host": "gone", "pid": 1, "machine": "gone", "process_started": 1, "started": time.time() - 9000}
    assert dead["machine"] != machine()
    for run, age in zip(plan.runs[:2], (3600.0, 170.0), strict=True):  # one long dead, one about to count as dead
        lease = leases(out) / f"{run.name}.1.json"
        lease.write_text(json.dumps(dead))
        os.utime(lease, (time.time() - age,) * 2)
    both = [started(path, out), started(path, out)]
    for process in both:
        finish(process)
    logs = "".join(p.read_text() for p in (out / ".sweep/logs").iterdir())
    saved = Counter(re.findall(r"saved \S+/(\S+)", logs))
    assert saved == {run.name: 1 for run in plan.runs}
    assert len(list((out / ".sweep/logs").iterdir())) == 2
    assert all("saved" in p.read_text() for p in (out / ".sweep/logs").iterdir())  # they shared the work
    assert read_plan(out, plan.id).runs == plan.runs


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_ten_short_runs_take_less_than_four_tenths_of_ten_commands(study, file_of, tmp_path):
    """On one worker, so that what is saved is loading, not waiting; each command has the caches of those before it."""
    short = study | {"methods": ["dpo"], "datasets": ["embedded:compare"], "seeds": list(range(1, 11))}
    path = file_of(short)
    plan = in_folder(find_study(path, {}, tmp_path / "out").plan, tmp_path / "out")
    started_at = time.monotonic()
    finish(started(path, tmp_path / "out"))
    swept = time.monotonic() - started_at
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    started_at = time.monotonic()
    for run in plan.runs:
        config = run.config
        options = {
            f"--{k}": v for k, v in {"data.dataset": config.data.dataset, "training.seed": config.training.seed}.items()
        }
        options |= {"--config": tmp_path / "single.yaml", "--output_dir": tmp_path / "single"}
        (tmp_path / "single.yaml").write_text(
            json.dumps(short["options"] | {"model": {"base_model": short["models"][0], "dtype": "float32"}})
        )
        words = [f"{k}={v}" for k, v in options.items()]
        command = [sys.executable, "-m", "innerpo", "train", "dpo", *words, "--eval.strengths", "0.5", "1"]
        command += ["--eval.strength_sets", "test", "oos"]
        # in a session of its own, as a worker is: systems that share processors among sessions treat both alike
        subprocess.run(command, check=True, capture_output=True, env=environment, start_new_session=True)
    single = time.monotonic() - started_at
    print(f"sweep {swept:.1f} s, ten commands {single:.1f} s, ratio {swept / single:.2f}")
    assert {p.name for p in (tmp_path / "single").iterdir()} == {p.name for p in runs_of(tmp_path / "out")}
    assert swept <= 0.4 * single


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ctrl_c_ends_the_workers_and_leaves_what_can_be_taken_up(study, file_of, tmp_path):
    path, out = file_of(study), tmp_path / "out"
    process = started(path, out, "--workers=2")
    while len(runs_of(out)) < 2:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    workers = workers_of(process)
    assert len(workers) == 2
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "the same command goes on where it stopped" in said
    assert "Traceback" not in said
    assert not [pid for pid in workers if os.path.exists(f"/proc/{pid}")]  # noqa: PTH110
    assert not [p for p in leases(out).glob("*.json") if not json.loads(p.read_text())["ended"]]
    finish(started(path, out, "--workers=2"))
    assert len(runs_of(out)) == 12


def test_runs_that_are_trained_and_then_scored_are_two_entries(tmp_path):
    """The second does not vanish behind the first, which is the same training."""
    groups = [{"options": {"eval": {"skip": skip}}} for skip in (True, False)]
    plan = study_of({"methods": ["dpo"], "datasets": ["embedded:compare"], "groups": groups}, "s").plan
    assert [run.config.eval.skip for run in plan.runs] == [True, False]
    assert len({run.name for run in plan.runs}) == 1


def test_a_base_in_memory_keeps_a_files_archive_to_its_own_runs(tmp_path, monkeypatch):
    path = tmp_path / "study.yaml"
    values = {"methods": ["dpo"], "datasets": ["embedded:compare"], "archive": str(tmp_path / "kept")}
    path.write_text(json.dumps(values))
    seen = []

    def stop(study, retry_failed):
        seen.append(study)
        raise UserError("far enough")

    monkeypatch.setattr("innerpo.experiments.sweep.start", stop)
    base = replace(any_base(), loaded=replace(default_run("dpo").model, base_model="toy"))
    for more in ({}, {"archive": tmp_path / "mine"}):
        with pytest.raises(UserError, match="far enough"):
            sweep(path, base=base, **more)
    own, named = seen
    assert own.foreign == {run.id for run in own.plan.runs}
    assert named.foreign == frozenset()
    assert named.archive == tmp_path / "mine"


@pytest.mark.parametrize(("n_workers", "states", "shown"), [(0, 3, 3), (0, 0, 1), (2, 3, 2), (8, 3, 4)])
def test_how_many_work_at_once(n_workers, states, shown):
    """Of three in work and one that waits; 0: nobody knows how many workers there are."""
    runs = [RunStatus(planned(seed=s), "running" if s < states else "waiting") for s in range(4)]
    assert at_once(SweepStatus(Path("out"), tuple(runs)), n_workers) == shown
