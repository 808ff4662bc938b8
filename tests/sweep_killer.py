"""Kill workers, parents and both of real sweeps: ``python sweep_killer.py STUDY FOLDER KILLS``; prints JSON at the end.

Everything is what ``innerpo sweep`` runs, but processes are forked from this one, which has loaded the libraries: so a
kill costs a second and not ten, and more of them hit work instead of imports.
"""

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from innerpo.experiments import worker  # noqa: F401 (loaded once, here)
from innerpo.experiments.lease import current_holder
from innerpo.experiments.plan import in_folder, write_plan
from innerpo.experiments.pool import Pool
from innerpo.experiments.study import read_study_file
from innerpo.experiments.worker_process import serve


class Forked:
    """A forked process, as subprocess.Popen would show it."""

    def __init__(self, work):
        self.returncode = None
        self.pid = os.fork()
        if self.pid == 0:
            code = 70
            try:
                code = work()
            finally:
                os._exit(code)

    def poll(self):
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self):
        while self.poll() is None:
            time.sleep(0.005)
        return self.returncode

    def send_signal(self, number):
        os.kill(self.pid, number)


class ForkedPool(Pool):
    """A pool whose workers are forked. No number of deaths is too many: three kills that hit one run would end it."""

    def _process(self, place, plan_id, out):
        parent, descriptor = os.getpid(), os.dup(out.fileno())

        def work():
            os.setsid()
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            return serve(self.folder, plan_id, parent)

        return Forked(work)


def children(pid):
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[1]) == pid and fields[0] not in "ZX":
                    found.append(int(entry.name))
    return found


def kill(*pids):
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def sweep_with_kills(plan, folder, chance, kills, most, longest):
    """Do one sweep to its end, killing at random; raises AssertionError where a finished run is made again."""
    write_plan(plan, folder)
    made = {}

    def parent():
        status = ForkedPool(plan, folder, 2, crashes=10**6).run()
        return int(status.count("done") != len(plan.runs))

    process = Forked(parent)
    while True:
        began = time.monotonic()
        while (
            process.poll() is None
            and chance.random() < 0.98  # now and then a process that has only begun
            and not any(current_holder(folder, run.name) for run in plan.runs)
            and time.monotonic() - began < 60
        ):
            time.sleep(0.01)
        time.sleep(chance.uniform(0.0, longest))
        for run in plan.runs:
            path = folder / run.name / "run.json"
            if path.exists():
                assert made.setdefault(run.name, path.stat().st_ino) == path.stat().st_ino, f"{run.name} is made again"
        if process.poll() is not None:
            assert process.returncode == 0, f"the sweep ended with code {process.returncode}"
            return
        if sum(kills.values()) >= most:
            continue
        victims, what = children(process.pid), chance.choice(["worker", "parent", "both"])
        if what == "worker" and victims:
            kill(chance.choice(victims))
        elif what == "parent":
            kill(process.pid)
        else:
            what = "both"
            kill(process.pid, *victims)
        kills[what] += 1
        if what != "worker":
            process.wait()
            process = Forked(parent)


def main(study, folder, most):
    chance, kills, folders = random.Random(1), Counter(), []
    longest = 2.0
    while sum(kills.values()) < most:
        out = folder / f"sweep-{len(folders) + 1}"
        plan = in_folder(read_study_file(study).plan, out)
        sweep_with_kills(plan, out, chance, kills, most, longest)
        folders.append(str(out))
        longest = max(json.loads(p.read_text())["seconds"] for p in out.glob("*/sweep.json"))
        longest = min(10.0, max(1.0, longest))
        print(f"{dict(kills)} after {len(folders)} sweeps", file=sys.stderr, flush=True)
    print(json.dumps({"kills": kills, "folders": folders}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
