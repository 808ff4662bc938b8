"""How long all figures of a table take: methods on shifts, by seeds, against one opponent."""

import time

import numpy as np

from innerpo.evaluation.statistics import Clustered, compare, frontier_gain, holm, one_run, seeds_by_prompts, suite
from tools.coverage.comparisons import OTHER_STRENGTHS, STRENGTHS
from tools.coverage.simulate import Paths, draw_sizes


def seconds(shifts: int, seeds: int, methods: int, prompts: int) -> float:
    """Return the processor seconds for all figures of methods on shifts; the first method is the opponent.

    The intervals of every run, of every method on every shift, and of every method on the suite; comparisons with the
    opponent on every shift and on the suite, with Holm's correction; a frontier gain on every shift.
    """
    rng = np.random.default_rng(0)
    sizes = [draw_sizes(rng, prompts)[0] for _ in range(shifts)]
    outcomes = [
        [Clustered(rng.binomial(n, 0.7, (seeds, prompts)).astype(float), n.astype(float)) for n in sizes]
        for _ in range(methods)
    ]
    paths = [Paths(rng, seeds, prompts) for _ in range(shifts)]
    curves = [[p.curve(p.trained(), OTHER_STRENGTHS if m else STRENGTHS) for p in paths] for m in range(methods)]
    start = time.process_time()
    for method in outcomes:
        suite(method)
        for shift in method:
            seeds_by_prompts(shift)
            for row in shift.sums:
                one_run(Clustered(row[None], shift.counts))
    for k in range(shifts):
        holm([compare(method[k], outcomes[0][k]).p for method in outcomes[1:]])
    holm([compare(method, outcomes[0]).p for method in outcomes[1:]])
    for method_curves in curves[1:]:
        for own, opponent in zip(method_curves, curves[0], strict=True):
            frontier_gain(own, opponent)
    return time.process_time() - start
