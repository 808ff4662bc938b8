"""The heads reader: directions at attention heads, and the mean of cosines along the best of them.

After the mass mean shift of GENIES (Clymer et al. 2023, arXiv 2311.07723), which takes it from inference-time
intervention. There, heads are ranked by logistic probes on 30 % of the pairs; here by the mean difference itself, each
prompt left out in turn, which needs no split. States are those of ``method.site=o_proj_in``, normalised as everywhere.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from innerpo.errors import UserError
from innerpo.methods.directions.clusters import mean_without_cluster
from innerpo.methods.generators import generator_for
from innerpo.methods.records import unit
from innerpo.model.forward.blocks import text_config

KEPT = 16


@dataclass(frozen=True)
class HeadsReader:
    """Unit directions ``w`` of the heads that are read, their numbers (layer * heads + head), and their accuracy on
    training pairs whose prompt was left out. ``n_heads`` is the number of heads in a layer.
    """

    n_heads: int
    chosen: Int[Tensor, " kept"]
    w: Float[Tensor, "kept size"]
    accuracy: Float[Tensor, " kept"]

    def __call__(self, d: Float[Tensor, "layer pair width"]) -> Float[Tensor, " pair"]:
        """Return m_i = mean_h cos(d_{h,i}, w_h) of pairs, between -1 and 1."""
        by_head = split_heads(d, self.n_heads)[self.chosen]
        return (unit(by_head) * self.w.to(by_head)[:, None]).sum(-1).mean(0)


def head_count(model: nn.Module) -> int:
    """Return the number of attention heads of a layer: of queries, which is what the output projection reads."""
    return int(text_config(model).num_attention_heads)


def split_heads(d: Float[Tensor, "layer pair width"], n_heads: int) -> Float[Tensor, "head pair size"]:
    """Return differences by head, those of layer l at l * n_heads and after it. UserError where they do not divide."""
    layers, pairs, width = d.shape
    if width % n_heads:
        raise UserError(f"states of width {width} are no outputs of {n_heads} heads; read method.site=o_proj_in")
    return d.reshape(layers, pairs, n_heads, -1).transpose(1, 2).flatten(0, 1)


def fit_heads(
    d: Float[Tensor, "layer pair width"],
    clusters: Int[Tensor, " pair"],
    n_heads: int,
    kept: int = KEPT,
    random_seed: int | None = None,
) -> HeadsReader:
    """Return the reader of the heads whose mean difference orders most training pairs of other prompts rightly.

    With ``random_seed``: of as many heads drawn at random, with their own mean differences (the control).
    """
    by_head = split_heads(d.double(), n_heads)
    along = (by_head * mean_without_cluster(by_head, clusters)).sum(-1)
    accuracy = (along.sign() + 1.0).mean(1) / 2.0
    if random_seed is None:
        chosen = accuracy.argsort(descending=True, stable=True)[:kept]
    else:
        chosen = torch.randperm(len(by_head), generator=generator_for(random_seed, "heads/random"))[:kept]
    return HeadsReader(n_heads, chosen, unit(by_head.mean(1))[chosen].float(), accuracy[chosen].float())
