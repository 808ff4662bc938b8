"""Log-ratio gain: by how many nats training moved the chosen response up against the rejected one."""

import polars as pl

from innerpo.evaluation.metrics.metric import Measured, Metric, per_pair


def _gain(measured: Measured) -> pl.DataFrame:
    """(log pi - log ref)(y_c) - (log pi - log ref)(y_r), per pair: the implicit reward margin up to DPO's beta."""
    chosen = pl.col("logp_chosen") - pl.col("base_logp_chosen")
    rejected = pl.col("logp_rejected") - pl.col("base_logp_rejected")
    return per_pair(measured, chosen - rejected)


log_ratio_gain = Metric(_gain, "Log-ratio gain, nats", scored=False, relative=True, digits=2)
