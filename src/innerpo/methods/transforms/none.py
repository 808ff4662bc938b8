"""none: no transform, Q = I. The default."""

from innerpo.config.method import MethodConfig
from innerpo.methods.transforms.transform import IDENTITY, FitInputs, Transform


def fit(inputs: FitInputs, method: MethodConfig) -> Transform:  # noqa: ARG001 - the interface of all transforms
    """Return the identity."""
    return IDENTITY
