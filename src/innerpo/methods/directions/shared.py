"""The shared direction: the mean difference of all training pairs."""

from innerpo.methods.directions.clusters import mean_without_cluster
from innerpo.methods.directions.direction import Direction, DirectionInputs, Fitted
from innerpo.methods.directions.nuisance import residuals
from innerpo.methods.records import unit


def mean_direction(x: DirectionInputs) -> Fitted:
    """Return w_l = unit(mean_i d_i), and for each pair the same over the pairs of all other prompts.

    With a nuisance the mean is the intercept of the regression of d on it, with and without the pair's prompt.
    """
    if x.nuisance is None:
        return unit(x.d.mean(1)), unit(mean_without_cluster(x.d, x.clusters))
    rest, without = residuals(x.d, x.nuisance, x.clusters)
    return unit(rest.mean(1)), unit(without)


shared = Direction(mean_direction, remove=True, gradients=True)
