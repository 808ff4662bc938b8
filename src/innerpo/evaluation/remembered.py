"""Results computed once per study: tables, marks, curves and reports of one study read the same joined facts."""

from collections.abc import Callable
from functools import wraps
from typing import TypeVar
from weakref import WeakKeyDictionary

from innerpo.evaluation.study import Study

R = TypeVar("R")


def remembered(function: Callable[[Study, str], R]) -> Callable[..., R]:
    """Return a function of a study and a scorer that keeps its results as long as the study lives.

    What it returns is shared by its callers, none of which may change it in place.
    """
    known: WeakKeyDictionary[Study, dict[str, R]] = WeakKeyDictionary()

    @wraps(function)
    def wrapper(study: Study, scorer: str = "mean_logp") -> R:
        of_study = known.setdefault(study, {})
        if scorer not in of_study:
            of_study[scorer] = function(study, scorer)
        return of_study[scorer]

    return wrapper
