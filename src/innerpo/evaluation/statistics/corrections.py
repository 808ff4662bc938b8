"""Many comparisons at once: p values corrected so that few are called different by chance."""

from collections.abc import Sequence

import numpy as np

from innerpo.evaluation.statistics.records import NAN


def holm(p: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p values (1979; statsmodels): below .05, some true null is called false in at most 5 %.

    A p that is not known (NaN) stays so, and does not count among the comparisons.
    """
    values = np.asarray(p, float)
    known = ~np.isnan(values)
    adjusted = np.full(len(values), NAN)
    if known.any():
        from statsmodels.stats.multitest import multipletests

        adjusted[known] = multipletests(values[known], method="holm")[1]
    return [float(value) for value in adjusted]
