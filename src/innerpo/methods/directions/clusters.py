"""Leaving out a prompt: pairs that share a prompt are one cluster, which estimates leave out as a whole.

The pairs of one prompt often share a response, so their differences are correlated. If only the pair itself were left
out, the direction fitted on its siblings would order it correctly more often than by chance, even on pure noise.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from innerpo.data.tokens import PromptItem


def cluster_numbers(items: Sequence[PromptItem]) -> Int[Tensor, " pair"]:
    """Return the cluster (prompt) of each training pair as a number, counted from 0 in order of appearance."""
    numbers: dict[str, int] = {}
    return torch.tensor([numbers.setdefault(item.cluster, len(numbers)) for item in items], dtype=torch.long)


def clusters_by_size(clusters: Int[Tensor, " pair"]) -> Iterator[Int[Tensor, "cluster member"]]:
    """Yield the pair indices of all clusters of one size, for each size that occurs."""
    counts = clusters.bincount()
    order, starts = clusters.argsort(stable=True), counts.cumsum(0) - counts
    for size in sorted(set(counts.tolist()) - {0}):
        first = starts[counts == size]
        yield order[first[:, None] + torch.arange(size, device=order.device)]


def mean_without_cluster(
    d: Float[Tensor, "layer pair rank"], clusters: Int[Tensor, " pair"]
) -> Float[Tensor, "layer pair rank"]:
    """Return for each pair the mean over all other clusters, (N mu - sum_{j in c} d_j) / (N - |c|).

    It is 0 (and not a mean) where there is only one cluster.
    """
    n, n_clusters = d.shape[1], int(clusters.max()) + 1
    sums = torch.zeros(d.shape[0], n_clusters, d.shape[2], dtype=d.dtype, device=d.device)
    sums = sums.index_add(1, clusters, d)
    left = (n - clusters.bincount(minlength=n_clusters)).clamp(min=1)
    return ((d.sum(1, keepdim=True) - sums) / left[:, None])[:, clusters]
