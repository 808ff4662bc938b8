"""The shared direction: the mean difference of all training pairs."""

from innerpo.methods.directions.direction import Direction, DirectionInputs, Fitted
from innerpo.methods.directions.nuisance import residuals
from innerpo.methods.records import unit


def mean_direction(x: DirectionInputs) -> Fitted:
    """Return w_l = unit(mean_i d_i), and for each pair the same from the other pairs: unit((N mu - d_i) / (N - 1)).

    With a nuisance the mean is the intercept of the regression of d on it, with and without each pair.
    """
    d, without, n = x.d, None, x.d.shape[1]
    if x.nuisance is not None:
        d, without = residuals(d, x.nuisance)
    mean = d.mean(1)
    return unit(mean), unit((n * mean[:, None] - d) / (n - 1) if without is None else without)


shared = Direction(mean_direction, remove=True, gradients=True)
