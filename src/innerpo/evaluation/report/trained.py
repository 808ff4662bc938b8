"""The part of a study that most of the page is about: bases, and policies as they were trained."""

from dataclasses import replace

import polars as pl

from innerpo.evaluation.study import Study


def as_trained(study: Study) -> Study:
    """Return a study without the rows of policies at other strengths than 1; the base (strength 0) stays."""
    return replace(study, responses=study.responses.filter(pl.col("strength").is_in([0.0, 1.0])))
