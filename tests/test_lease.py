"""One process at a time works on a run: on this machine, on others, after deaths of either."""

import errno
import json
import multiprocessing
import os
import signal
import time

import filelock._unix
import pytest

from innerpo.errors import MachineError
from innerpo.experiments import holder
from innerpo.experiments import lease as leases_module
from innerpo.experiments.layout import leases
from innerpo.experiments.lease import Lease, LostLeaseError, current_holder, lease

FORK = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def numbers(folder):
    return sorted(int(p.name.split(".")[-2]) for p in leases(folder).glob("run.*.json"))


def elsewhere(folder, number=1, age=0.0, **changes):
    """A lease that a process of another machine holds, whose last sign of life is some seconds old."""
    held = {"host": "far", "pid": os.getpid(), "machine": "another", "process_started": 1, "started": time.time() - 100}
    path = leases(folder) / f"run.{number}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(held | changes))
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_a_second_one_waits_until_the_first_is_given_back(tmp_path):
    with lease(tmp_path, "run") as first:
        assert isinstance(first, Lease)
        assert current_holder(tmp_path, "run").pid == os.getpid()
        with lease(tmp_path, "run") as second:
            assert second is None
        with lease(tmp_path, "another") as other:
            assert other is not None
        spent = first.spent
    assert current_holder(tmp_path, "run") is None
    with lease(tmp_path, "run") as third:
        assert third.number == first.number + 1
        assert third.spent >= spent > 0.0


def test_names_that_begin_alike_are_different_runs(tmp_path):
    with lease(tmp_path, "run.1") as first, lease(tmp_path, "run") as second:
        assert first is not None
        assert second is not None
        assert second.number == 1


def test_a_finished_run_leaves_no_lease(tmp_path):
    with lease(tmp_path, "run") as held:
        held.remove()
    assert numbers(tmp_path) == []
    assert current_holder(tmp_path, "run") is None


def test_an_error_gives_the_lease_back(tmp_path):
    with pytest.raises(KeyboardInterrupt), lease(tmp_path, "run"):
        raise KeyboardInterrupt
    with lease(tmp_path, "run") as held:
        assert held.number == 2


@FORK
def test_a_killed_process_is_dead_at_once(tmp_path):
    def hold(ready):
        with lease(tmp_path, "run"):
            ready.set()
            time.sleep(60)

    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=hold, args=(ready,))
    process.start()
    assert ready.wait(20)
    assert current_holder(tmp_path, "run").pid == process.pid
    with lease(tmp_path, "run") as held:
        assert held is None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert current_holder(tmp_path, "run") is None
    with lease(tmp_path, "run") as held:
        assert held.number == 2
        assert held.spent > 0.0
    assert numbers(tmp_path) == [2]


def test_another_machine_that_shows_life_keeps_its_run(tmp_path):
    elsewhere(tmp_path, age=10.0)
    assert current_holder(tmp_path, "run").host == "far"
    with lease(tmp_path, "run") as held:
        assert held is None
    assert numbers(tmp_path) == [1]


def test_a_dead_machines_lease_is_taken_over(tmp_path):
    elsewhere(tmp_path, age=1000.0)
    assert current_holder(tmp_path, "run") is None
    with lease(tmp_path, "run") as held:
        assert held.number == 2
        with lease(tmp_path, "run") as second:
            assert second is None


def test_another_machine_that_gave_its_run_back_is_not_waited_for(tmp_path):
    elsewhere(tmp_path, age=0.0, ended=True)
    with lease(tmp_path, "run") as held:
        assert held.number == 2


def test_of_two_that_find_a_holder_dead_one_takes_over(tmp_path, monkeypatch):
    """Without a lock that both see: the second had looked before the first took over."""
    elsewhere(tmp_path, age=1000.0)
    looked = leases_module._latest
    with lease(tmp_path, "run") as first:
        assert first.number == 2
        answers = iter([1])
        monkeypatch.setattr(leases_module, "_latest", lambda *a: next(answers, looked(*a)))
        elsewhere(tmp_path, age=1000.0)  # as the second one had seen it
        assert leases_module._claim(leases(tmp_path), "run", 180.0, True) is None
        first.check()


def test_who_looked_long_ago_does_not_take_a_number_that_was_used(tmp_path, monkeypatch):
    looked = leases_module._latest
    elsewhere(tmp_path, number=7)
    answers = iter([0])
    monkeypatch.setattr(leases_module, "_latest", lambda *a: next(answers, looked(*a)))
    assert leases_module._claim(leases(tmp_path), "run", 180.0, True) is None
    assert numbers(tmp_path) == [7]


def test_a_holder_that_was_taken_over_is_told(tmp_path):
    with lease(tmp_path, "run") as held:
        elsewhere(tmp_path, number=held.number + 1)
        assert held.is_lost
        with pytest.raises(LostLeaseError, match="run was taken over"):
            held.check()
    assert held.number in numbers(tmp_path)


def test_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(leases_module, "BEAT", 0.05)
    with lease(tmp_path, "run") as held:
        os.utime(held.path, (1.0, 1.0))
        end = time.monotonic() + 5.0
        while held.path.stat().st_mtime == 1.0:
            assert time.monotonic() < end
            time.sleep(0.01)


def test_what_a_kill_in_mid_write_left_does_not_matter(tmp_path):
    leases(tmp_path).mkdir(parents=True)
    (leases(tmp_path) / ".run.1.json.99").write_text('{"host": ')
    (leases(tmp_path) / "run.lock").touch()
    with lease(tmp_path, "run") as held:
        held.remove()
    assert [p.name for p in leases(tmp_path).iterdir()] == ["run.lock"]


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_links_or_locks(tmp_path, monkeypatch, number):
    def refuse(*arguments, **options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(filelock._unix, "lock_fd_nonblocking", refuse)
    with lease(tmp_path, "run") as first:
        assert first.number == 1
        with lease(tmp_path, "run") as second:  # the process that holds it lives
            assert second is None


def test_a_disk_that_fails_is_not_one_without_locks(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(filelock._unix, "lock_fd_nonblocking", refuse)
    with pytest.raises(MachineError, match="Input/output error"), lease(tmp_path, "run"):
        pass


def test_a_holder_whose_age_cannot_be_told_is_taken_to_live(tmp_path, monkeypatch):
    """As where another host removes the probe of the same name, or the folder is full."""
    path = elsewhere(tmp_path, age=10.0)

    def refuse(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tempfile.NamedTemporaryFile", refuse)
    monkeypatch.setattr("pathlib.Path.touch", refuse)
    assert current_holder(tmp_path, "run").host == "far"
    assert leases_module._claim(path.parent, "run", 180.0, True) is None


def test_two_hosts_with_one_process_number_write_files_of_their_own(tmp_path, monkeypatch):
    """The second one writes when the first is about to link what it wrote: the file is that of who linked first."""
    link, firsts = os.link, []

    def late(source, target):
        firsts.append((source, target))
        if len(firsts) == 1:
            assert not leases_module._create(tmp_path / "run.1.json", "second")
        elif len(firsts) == 2:
            link(*firsts[0])
            link(source, target)

    monkeypatch.setattr(os, "link", late)
    assert leases_module._create(tmp_path / "run.1.json", "first")
    assert (tmp_path / "run.1.json").read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["run.1.json"]


def test_a_lease_that_is_being_written_is_held(tmp_path):
    """Without hard links its file is there before its text."""
    path = elsewhere(tmp_path)
    path.write_text("")
    with lease(tmp_path, "run") as held:
        assert held is None
    os.utime(path, (time.time() - 1000,) * 2)  # killed in the midst of it
    with lease(tmp_path, "run") as held:
        assert held.number == 2


# -- containers and file servers ---------------------------------------------------------------------------------------


def test_processes_of_another_container_are_known_by_their_signs_of_life(tmp_path):
    """On one machine, but its process numbers mean nothing here: ours, which lives, may be one of them."""
    near = {"machine": holder.machine(), "process_started": holder.process_started(os.getpid()), "locked": False}
    elsewhere(tmp_path, numbers=holder.process_numbers(), **near | {"process_started": 1})
    assert current_holder(tmp_path, "run") is None  # looked at: that process is gone
    elsewhere(tmp_path, numbers="pid:[1]", age=10.0, **near)
    assert current_holder(tmp_path, "run") is not None
    with lease(tmp_path, "run") as held:
        assert held is None  # our lock proves nothing, since that process had none
    elsewhere(tmp_path, numbers="pid:[1]", age=200.0, **near)
    assert current_holder(tmp_path, "run") is None


def test_the_lock_of_this_machine_ends_with_a_container(tmp_path):
    elsewhere(tmp_path, machine=holder.machine(), numbers="pid:[1]", locked=True)
    assert current_holder(tmp_path, "run") is not None
    with lease(tmp_path, "run") as held:
        assert held.number == 2  # whoever had the lock is dead, whatever its signs of life


def test_a_lock_that_a_file_server_keeps_for_a_dead_machine_is_no_hindrance(tmp_path, monkeypatch):
    monkeypatch.setattr(leases_module, "_locks", lambda lock: False)
    with lease(tmp_path, "run") as held:
        assert held is None  # no lease file: somebody is about to write one
    elsewhere(tmp_path, age=10.0)
    with lease(tmp_path, "run") as held:
        assert held is None
    elsewhere(tmp_path, age=200.0)
    with lease(tmp_path, "run") as held:
        assert held.number == 2
        assert not held.holder.locked
        monkeypatch.undo()
        with lease(tmp_path, "run") as second:  # the server gave the lock up, to a process of this machine
            assert second is None
