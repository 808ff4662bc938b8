"""Whether the options of a transform fit states of a size, known before any states are."""

from innerpo.config.method import MethodConfig
from innerpo.methods.transforms.ether import check_blocks
from innerpo.methods.transforms.supr import check_null
from innerpo.methods.transforms.transform import count_of

COUNTS = {"ether": "rank", "ortho": "rank", "hra": "rank", "svd": "rank", "random": "rank", "supr": "supr_k"}
"""Transform -> its option that is a number of directions."""


def check_sizes(method: MethodConfig, hidden: int) -> None:
    """Raise UserError where the transform that a method names cannot be fitted on states of this many dimensions."""
    if field := COUNTS.get(method.transform):
        count = count_of(getattr(method.subspace, field), hidden, field)
        if method.transform == "supr" and method.subspace.supr_mode == "null":
            check_null(count, hidden)
    if method.transform == "ether":
        check_blocks(method.subspace.ether_blocks, hidden)
