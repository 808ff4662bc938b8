"""Workers beyond this process: jobs that end early, submitit's local executor, a Ray cluster that loses a node."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from innerpo.cli.verbs import main
from innerpo.errors import MachineError, UserError
from innerpo.experiments import fleet, launchers, worker_process
from innerpo.experiments.fleet import Fleet
from innerpo.experiments.launch_options import Launch, RayOptions, SlurmOptions
from innerpo.experiments.launchers import launch, n_workers
from innerpo.experiments.lease import current_holder
from innerpo.experiments.pool import Pool
from innerpo.experiments.slurm_launcher import Queue, SlurmLauncher, SlurmWorker, _extra
from innerpo.experiments.status import Watch
from innerpo.experiments.study import study_of
from innerpo.experiments.sweep import prepare
from innerpo.experiments.worker import work
from sweep_helpers import any_base, plan_in, pretend, unscored

# -- jobs --------------------------------------------------------------------------------------------------------------


class Job:
    """A job that works in this process when it is first looked at, on some runs, and then ends as it is told to."""

    def __init__(self, does=lambda: None, how=""):
        self.name, self.does, self.how, self.cancelled, self.at_work = "7", does, how, False, True

    def ended(self):
        if self.at_work and not self.cancelled:
            self.at_work = False
            self.does()
            return None
        return self.how

    def cancel(self):
        self.cancelled = True


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(fleet, "LOOK", 0.01)
    monkeypatch.setattr(fleet, "PATIENCE", 0.1)


def test_a_job_that_ends_early_is_replaced(tmp_path, quick, caplog):
    plan = plan_in(tmp_path, *unscored(3))
    made = []

    def submit():
        runs = plan.runs[len(made)]
        made.append(Job(lambda: work(plan_in(tmp_path, runs), tmp_path, any_base(), train=pretend), "node down"))
        return made[-1]

    status = Fleet(plan, tmp_path, 1, submit).run()
    assert [run.state for run in status.runs] == ["done"] * 3
    assert len(made) == 3
    assert "job 7 ended: node down; see" in caplog.text


def test_jobs_that_end_before_they_finish_a_run_end_the_sweep(tmp_path, quick):
    plan, made = plan_in(tmp_path, *unscored(3)), []

    def submit():
        made.append(Job(how="no module named innerpo"))
        return made[-1]

    with pytest.raises(MachineError, match=r"6 jobs ended since a run was last finished; .*logs"):
        Fleet(plan, tmp_path, 2, submit).run()
    assert len(made) == 6


def test_a_queue_that_refuses_for_now_ends_no_job_that_works(tmp_path, quick, caplog):
    """One job works, the second is refused more often than jobs may end; where none works, it is an error."""
    plan, made = plan_in(tmp_path, *unscored(3)), []

    class Works(Job):
        def ended(self):
            if len(made) < 10 and not self.cancelled:
                return None
            return super().ended()

    def submit():
        made.append("asked")
        if 2 <= len(made) < 10:
            raise MachineError("Slurm refuses the job: Socket timed out")
        return Works(lambda: work(plan, tmp_path, any_base(), train=pretend))

    status = Fleet(plan, tmp_path, 2, submit).run()
    assert status.count("done") == 3
    assert caplog.text.count("Slurm refuses the job: Socket timed out; 1 of 2 jobs are at work") == 8

    def never():
        raise MachineError("Slurm refuses the job")

    with pytest.raises(MachineError, match=r"refuses the job$"):
        Fleet(plan_in(tmp_path / "other", *unscored(1)), tmp_path / "other", 2, never).run()


def test_an_interrupt_ends_the_jobs(tmp_path, quick):
    class Stubborn(Job):
        def ended(self):
            return "cancelled" if self.cancelled else None

    made = [Stubborn(), Stubborn()]
    jobs = Fleet(plan_in(tmp_path, *unscored(3)), tmp_path, 2, iter(made).__next__)

    def show(status):
        if jobs.jobs:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        jobs.run(show)
    assert all(job.cancelled for job in made)


def test_jobs_that_still_wait_when_all_is_done_are_taken_back(tmp_path, quick):
    plan = plan_in(tmp_path, *unscored(2))
    works = Job(lambda: work(plan, tmp_path, any_base(), train=pretend))

    class Waits(Job):
        def ended(self):
            return "cancelled" if self.cancelled else None

    waits = Waits()
    status = Fleet(plan, tmp_path, 2, iter([works, waits]).__next__).run()
    assert status.count("done") == 2
    assert waits.cancelled
    assert not works.cancelled


def test_a_sweep_that_is_done_submits_nothing(tmp_path, quick):
    plan = plan_in(tmp_path, *unscored(1))
    work(plan, tmp_path, any_base(), train=pretend)
    status = Fleet(plan, tmp_path, 2, lambda: pytest.fail("submitted")).run()
    assert status.count("done") == 1


def test_an_idle_worker_waits_for_as_long_as_it_is_told(tmp_path, monkeypatch):
    from innerpo.experiments.lease import lease

    monkeypatch.setattr("innerpo.experiments.worker.POLL", 0.01)
    plan = plan_in(tmp_path, *unscored(2))
    with lease(tmp_path, plan.runs[0].name):
        began = time.monotonic()
        work(plan, tmp_path, any_base(), train=pretend, wait=0.3)
        assert 0.3 <= time.monotonic() - began < 3.0
    assert [run.state for run in Watch(plan, tmp_path).look().runs] == ["waiting", "done"]


def test_a_job_tells_its_worker_how_long_to_wait(tmp_path, monkeypatch):
    plan, started, served = plan_in(tmp_path, *unscored(1)), [], []

    class Kept(subprocess.Popen):
        def __init__(self, words, **options):
            started.append(words)
            super().__init__(["true"])

    monkeypatch.setattr("innerpo.experiments.pool.subprocess.Popen", Kept)
    monkeypatch.setattr(worker_process, "serve", lambda *given, **options: served.append((*given, options)) or 0)
    for wait in (None, 360.0):
        Pool(plan, tmp_path, 1, wait=wait)._process(0, plan.id, sys.stdout.buffer).wait()
        assert worker_process.main(started[-1][3:]) == 0
    assert [options for *_, options in served] == [{"wait": True}, {"wait": 360.0}]
    assert served[0][:3] == (tmp_path, plan.id, os.getpid())


# -- options -----------------------------------------------------------------------------------------------------------


def test_workers_where_nobody_says(monkeypatch):
    monkeypatch.setattr(launchers, "default_workers", lambda: 4)
    assert [n_workers(Launch(name), 8) for name in ("local", "slurm", "ray")] == [4, 1, 0]
    assert [n_workers(Launch(name, 3), 2) for name in ("local", "slurm", "ray")] == [2, 2, 2]
    with pytest.raises(UserError, match="workers must not be negative, got -1"):
        Launch("ray", -1)


@pytest.mark.parametrize(("launcher", "module"), [("slurm", "submitit"), ("ray", "ray")])
def test_a_missing_library_is_one_line_that_names_the_extra(launcher, module, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    words = ["--methods", "dpo", "--datasets", "embedded:compare", f"--output_dir={tmp_path / 'out'}"]
    assert main(["sweep", *words, f"--launcher={launcher}"]) == 2
    assert f"pip install 'innerpo[{launcher}]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_options_of_a_launcher_reach_it(tmp_path, capsys, monkeypatch):
    seen = []
    monkeypatch.setattr("innerpo.cli.sweep_runs.check_launcher", lambda how: seen.append(how))
    monkeypatch.setattr("innerpo.cli.sweep_runs.launch", lambda *given: pytest.fail("stop"))
    words = ["--methods", "dpo", "--datasets", "embedded:compare", f"--output_dir={tmp_path}", "--launcher", "slurm"]
    words += ["--slurm.partition", "gpu", "--slurm.time=60", "--slurm.extra", "nice=1", "exclusive", "--ray.gpus=.5"]
    with pytest.raises(pytest.fail.Exception):
        main(["sweep", *words, "--training.lr", "1e-4"])
    (how,) = seen
    assert how.slurm == SlurmOptions("gpu", 60, extra=("nice=1", "exclusive"))
    assert how.ray == RayOptions(gpus=0.5)
    assert _extra(how.slurm.extra) == {"requeue": True, "nice": "1", "exclusive": True}
    assert main(["sweep", "--slurm.partitoin=x"]) == 2
    assert "did you mean '--slurm.partition'?" in capsys.readouterr().err


# -- Slurm -------------------------------------------------------------------------------------------------------------


def test_what_a_job_of_slurm_asks_for(tmp_path, monkeypatch):
    """The file that sbatch gets, written by submitit for a Slurm whose programs only say that they are there."""
    pytest.importorskip("submitit")
    for name, says in (("srun", ""), ("sbatch", "echo Submitted batch job 41"), ("squeue", "echo 41; echo 42")):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{says}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin", prepend=os.pathsep)
    own = SlurmOptions("gpu", 60, 1, 8, 24.0, "lab", setup=("module load cuda",), extra=("exclude=n7",))
    job = SlurmLauncher(own, tmp_path / "out", "0123").submit()
    assert (job.name, job.ended()) == ("41", None)
    folder = tmp_path / "out" / ".sweep" / "logs" / "slurm"
    (script,) = folder.glob("41_*.sh")
    asked = [line.removeprefix("#SBATCH --") for line in script.read_text().splitlines() if line.startswith("#SBATCH")]
    expected = {"partition=gpu", "time=60", "gpus-per-node=1", "cpus-per-task=8", "mem=24GB", "account=lab", "requeue"}
    assert expected | {"exclude=n7", "job-name=innerpo"} <= set(asked)
    assert "module load cuda" in script.read_text()
    (kept,) = folder.glob("*_submitted.pkl")
    assert b"torch" not in kept.read_bytes()
    assert kept.stat().st_size < 1000
    (tmp_path / "bin" / "squeue").write_text("#!/bin/sh\nexit 1\n")
    monkeypatch.setattr("innerpo.experiments.slurm_launcher.ASK", 0.0)
    assert job.ended() is None  # a Slurm that does not answer says nothing of a job
    (tmp_path / "bin" / "squeue").write_text("#!/bin/sh\necho 42\n")
    assert "it left no result" in job.ended()
    (tmp_path / "bin" / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid partition: gpu' >&2; exit 1\n")
    with pytest.raises(MachineError, match=r"Slurm refuses the job: .*invalid partition"):
        SlurmLauncher(own, tmp_path / "out", "0123").submit()


def test_without_slurm_it_says_so(tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="there is no Slurm on this machine"):
        SlurmLauncher(SlurmOptions(), tmp_path, "0").submit()


def test_what_is_queued_again_is_the_same_work():
    pytest.importorskip("submitit")
    again = SlurmWorker().checkpoint("/shared/out", "0123")
    assert (type(again.function), again.args) == (SlurmWorker, ("/shared/out", "0123"))
    assert Queue(frozenset({"7"}), time.monotonic()).has("7")


# -- real runs ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def study(toy_folder, tmp_path):
    """Four runs that take some seconds each."""
    return {
        "models": [str(toy_folder)],
        "methods": ["dpo"],
        "datasets": ["embedded:compare"],
        "seeds": [1, 2, 3, 4],
        "options": {
            "data": {"cache_dir": str(tmp_path / "cache"), "max_train_prompts": 24, "batch_size": 2},
            "model": {"dtype": "float32", "threads": 1},
            "training": {"save_steps": 20, "epochs": 25},
            "eval": {"skip": True},
        },
    }


@pytest.fixture
def often(monkeypatch):
    """The files are looked at often, so that a run is met in its midst."""
    monkeypatch.setattr(fleet, "LOOK", 0.1)


class Watcher:
    """Sees which run was at work when something was killed, and that every run is made once."""

    def __init__(self, plan, out):
        self.plan, self.out, self.made = plan, out, {}

    def busy(self):
        """Runs that somebody is at, by their names, with the holders."""
        found = {run.name: current_holder(self.out, run.name) for run in self.plan.runs}
        return {name: holder for name, holder in found.items() if holder is not None}

    def look(self, status=None):
        for run in self.plan.runs:
            path = self.out / run.name / "run.json"
            if path.exists():
                assert self.made.setdefault(run.name, path.stat().st_ino) == path.stat().st_ino

    def checkpoint(self, name):
        return next(self.out.glob(f".sweep/attempts/*/{name}/*/checkpoint-*"), None)

    def all_done(self):
        self.look()
        assert [run.state for run in Watch(self.plan, self.out).look().runs] == ["done"] * len(self.plan.runs)
        assert sorted(self.made) == sorted(run.name for run in self.plan.runs)
        assert not list(self.out.glob(".sweep/attempts/*/*"))
        assert not list(self.out.glob(".sweep/failed/*"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_submitit_queues_a_job_again_whose_time_is_up(study, tmp_path, often):
    """Submitit's local executor for real: the signal of a timeout hits a job in mid-run."""
    pytest.importorskip("submitit")
    out = tmp_path / "out"
    plan = prepare(study_of(study | {"seeds": [1, 2]}, "s").plan, out)
    seen, jobs = Watcher(plan, out), []
    launcher = SlurmLauncher(SlurmOptions(gpus=0, time=30), out, plan.id, cluster="local")
    hit = []

    def submit():
        jobs.append(launcher.submit())
        return jobs[-1]

    def show(status):
        seen.look()
        for name in seen.busy():
            if not hit and seen.checkpoint(name):
                hit.append(name)
                children = Path(f"/proc/{jobs[0].name}/task/{jobs[0].name}/children").read_text()
                os.kill(int(children.split()[0]), signal.SIGUSR2)

    Fleet(plan, out, 1, submit).run(show)
    assert hit
    seen.all_done()
    assert len(jobs) == 1
    said = "".join(path.read_text() for path in (out / ".sweep/logs/slurm").glob("*_log.out"))
    assert "Requeued job" in said


def ancestors(pid):
    """Numbers of the processes above one, nearest first."""
    found = []
    while pid > 1:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        found.append(pid)
    return found


def job_of(pid):
    """The job of Slurm that a process belongs to."""
    words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next(word.partition(b"=")[2].decode() for word in words if word.startswith(b"SLURM_JOB_ID="))


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A Slurm of two nodes on this machine."""
    pytest.importorskip("submitit")
    if shutil.which("slurmctld", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        pytest.skip("needs Debian's packages slurmctld, slurmd, slurm-client and munge")
    folder, began = tmp_path / "slurm", time.monotonic()
    script = Path(__file__).parents[1] / "tools" / "slurm_here.sh"
    said = (tmp_path / "slurm.txt").open("w+")
    process = subprocess.Popen([str(script), str(folder)], stdout=said, stderr=said)
    while "export SLURM_CONF" not in (tmp_path / "slurm.txt").read_text():
        assert process.poll() is None, (tmp_path / "slurm.txt").read_text()
        assert time.monotonic() - began < 60.0
        time.sleep(0.2)
    monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    yield
    process.terminate()
    process.wait()
    said.close()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_slurm_requeues_a_job_and_another_completes_its_run(slurm, study, tmp_path, often):
    out = tmp_path / "out"
    plan = prepare(study_of(study, "s").plan, out)
    seen, before, after = Watcher(plan, out), {}, {}

    def show(status):
        seen.look()
        busy = seen.busy()
        for name, holder in busy.items():
            if name in before and holder.pid != before[name].pid and name not in after:
                with suppress(OSError):  # it has ended meanwhile
                    after[name] = job_of(holder.pid)
            if not before and len(busy) == 2 and seen.checkpoint(name):
                before[name] = holder
                jobs.append(job_of(holder.pid))
                subprocess.run(["scontrol", "requeue", jobs[0]], check=True)

    jobs = []
    launch(plan, out, Launch("slurm", 2, slurm=SlurmOptions(gpus=0, cpus=1, time=60)), show)
    seen.all_done()
    (name,) = before
    assert after[name] != jobs[0]
    print(f"job {jobs[0]} was requeued at {name}, which job {after[name]} completed")
    until = time.monotonic() + 60.0
    while subprocess.run(["squeue", "--noheader"], capture_output=True, check=True).stdout:
        assert time.monotonic() < until
        time.sleep(1.0)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore")
def test_a_node_of_ray_is_killed_and_the_other_completes_its_run(study, tmp_path, often):
    ray = pytest.importorskip("ray", reason="needs the extra ray")
    from ray.cluster_utils import Cluster

    out = tmp_path / "out"
    plan = prepare(study_of(study, "s").plan, out)
    seen, killed, after = Watcher(plan, out), {}, {}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 80 * 2**20})
    try:
        nodes = [cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20) for _ in range(2)]
        above = {node: node.all_processes["raylet"][0].process.pid for node in nodes}

        def node_of(pid):
            return next(node for node, raylet in above.items() if raylet in ancestors(pid))

        def show(status):
            seen.look()
            busy = seen.busy()
            for name, holder in busy.items():
                if name in killed and name not in after and holder.pid != killed[name][0]:
                    with suppress(OSError):  # it has ended meanwhile
                        after[name] = node_of(holder.pid)
                if not killed and len(busy) == 2 and seen.checkpoint(name):
                    killed[name] = (holder.pid, node_of(holder.pid))
                    cluster.remove_node(killed[name][1], allow_graceful=False)

        how = Launch("ray", 2, ray=RayOptions(address=cluster.address))
        launch(plan, out, how, show)
        assert not ray.is_initialized()
    finally:
        cluster.shutdown()
    seen.all_done()
    (name,) = killed
    assert after[name] != killed[name][1]
