"""supr: directions that hardly change the logits (null), or along which blocks lower logits (suppressed).

null: the complement of the top k right-singular vectors of W_U diag(gain of the final norm). suppressed: the top k
right-singular vectors of W_U^T min(dz, 0), where dz is the change of the lens logits W_U norm(h) over the block.
Labels are not used.
"""

import logging

import torch
from jaxtyping import Float
from torch import Tensor

from innerpo.config.method import MethodConfig
from innerpo.errors import UserError
from innerpo.methods.transforms.transform import FitInputs, Transform, count_of, freeze
from innerpo.model.forward.passes import batches
from innerpo.model.forward.unembedding import Unembedding, block_states

log = logging.getLogger(__name__)

MAX_PAIRS = 64
MAX_TOKENS = 4096
"""Completion tokens on which ``suppressed`` is fitted; a seeded sample of pairs stays below it."""
BATCH = 8


def fit(inputs: FitInputs, method: MethodConfig) -> Transform:
    """Return the basis of ``method.subspace.supr_mode``."""
    k = count_of(method.subspace.supr_k, inputs.hidden, "supr_k")
    if method.subspace.supr_mode == "null":
        basis = null_basis(Unembedding.of(inputs.model), k).repeat(len(inputs.layers), 1, 1)
    else:
        basis = torch.stack([by_size(gram)[:k] for gram in suppressed_grams(inputs, k)])
    log.info(f"transform supr: {method.subspace.supr_mode}, rank {basis.shape[1]} of {basis.shape[2]}")
    return freeze("supr", basis)


def null_basis(unembedding: Unembedding, k: int) -> Float[Tensor, "rank hidden"]:
    """Return an orthonormal basis of the complement of the k directions that change logits most."""
    gram = unembedding.gram().cpu()
    check_null(k, gram.shape[0])
    return by_size(gram)[k:]


def check_null(k: int, hidden: int) -> None:
    """Raise UserError where nothing is left without the k directions."""
    if k == hidden:
        raise UserError(
            f"method.subspace.supr_k={k} drops all {hidden} dimensions; supr_mode null must keep at least one"
        )


def by_size(gram: Float[Tensor, "hidden hidden"]) -> Float[Tensor, "hidden hidden"]:
    """Return the eigenvectors of a Gram matrix as rows, largest eigenvalue first."""
    columns: Tensor = torch.linalg.eigh(gram).eigenvectors
    return columns.T.flip(0)


def suppressed_grams(inputs: FitInputs, k: int) -> list[Float[Tensor, "hidden hidden"]]:
    """Return, per layer, the sum of x x^T over the vectors x = W_U^T min(dz, 0) of a sample's completion tokens."""
    items = [inputs.items[i] for i in sample_pairs(inputs)]
    n_tokens = sum(len(r) for item in items for r in item.responses)
    if n_tokens < k:
        raise UserError(
            f"method.subspace.supr_k={k} directions cannot be estimated from the {n_tokens} completion tokens of "
            f"{len(items)} pairs; use a smaller supr_k or more pairs"
        )
    unembedding = Unembedding.of(inputs.model)
    grams = [torch.zeros(inputs.hidden, inputs.hidden, dtype=torch.float64) for _ in inputs.layers]
    device = unembedding.weight.device
    for _, batch in batches(items, inputs.layout, inputs.pad_id, BATCH, device, "suppressed components"):
        for gram, (before, after) in zip(grams, block_states(inputs.model, batch, inputs.layers), strict=True):
            x = unembedding.suppressed(before, after).to(inputs.device).double()
            gram += (x.T @ x).cpu()
    return grams


def sample_pairs(inputs: FitInputs) -> list[int]:
    """Return a seeded sample of at most MAX_PAIRS pairs and (beyond the first pair) MAX_TOKENS completion tokens."""
    chosen, tokens = list[int](), 0
    for i in torch.randperm(len(inputs.items), generator=inputs.generator("supr")).tolist()[:MAX_PAIRS]:
        tokens += sum(len(r) for r in inputs.items[i].responses)
        if chosen and tokens > MAX_TOKENS:
            break
        chosen.append(i)
    return chosen
