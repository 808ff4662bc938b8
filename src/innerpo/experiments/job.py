"""A job of a cluster: one worker on a sweep's folder, with what that machine gives it. It knows two words: the folder
and the plan's id.
"""

from pathlib import Path

from innerpo.experiments.lease import STALE
from innerpo.experiments.plan import read_plan
from innerpo.experiments.pool import Pool

WAIT = 2 * STALE
"""Seconds for which a worker without work holds what it was given, in case a run's process dies. A machine that comes
back after a death waits as long as a lease lasts, hence more than that."""


def work_as_job(folder: str, plan_id: str) -> int:
    """Work on a plan until nothing of it is left to this job; return how many of its runs are done by then.

    The work is done by a process of its own, which is replaced where it dies: a run that kills it again and again fails
    as it would on one machine. What ends this function (an interrupt, SystemExit) ends that process in order.
    """
    place = Path(folder)
    return Pool(read_plan(place, plan_id), place, 1, wait=WAIT).run().count("done")
