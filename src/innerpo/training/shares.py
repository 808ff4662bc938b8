"""Each term's share of the gradient: the norm of its own weighted gradient over the sum of the norms of all terms."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from innerpo.errors import UserError
from innerpo.methods.method import LossOutput


class GradientShares:
    """Measures the shares now and then, on the first batch of a step, over all passes of that batch."""

    def __init__(self, every: int) -> None:
        """Measure every so many steps; 0 = never."""
        self.every = every
        self._measured_at = -1
        self._single = True
        self._gradients: dict[str, list[Tensor | None]] | None = None

    def begin(self, step: int, passes: int) -> None:
        """Call before the passes of a batch. Of a single one only norms are kept, of several whole gradients."""
        self._single = passes == 1
        due = self.every and step % self.every == 0 and step != self._measured_at
        self._gradients = {} if due else None
        if due:
            self._measured_at = step

    def add(self, out: LossOutput, weights: Mapping[str, float], parameters: Iterable[nn.Parameter]) -> None:
        """Add one pass's gradient of every weighted term, if the batch is one that is measured."""
        if self._gradients is None:
            return
        trained = [p for p in parameters if p.requires_grad]
        for name, value in out.terms.items():
            value = value if out.pair_weights is None else out.pair_weights * value
            found: tuple[Tensor | None, ...] = torch.autograd.grad(
                weights[name] * value.sum(), trained, retain_graph=True, allow_unused=True
            )
            if self._single:
                found = tuple(None if f is None else f.float().norm() for f in found)
            before = self._gradients.get(name, [None] * len(found))
            self._gradients[name] = [
                b if f is None else f.float() if b is None else b + f.float()
                for b, f in zip(before, found, strict=True)
            ]
            del found, before  # two gradients less while the next term's is computed

    def finish(self) -> dict[str, float]:
        """Return ``grad_share/<term>`` of the batch that ends here; nothing where it was not measured."""
        if self._gradients is None:
            return {}
        norms = {}
        for name, gradients in self._gradients.items():
            squares = [g.square().sum() for g in gradients if g is not None]
            norms[name] = torch.stack(squares).sum().sqrt() if squares else torch.zeros(())
        self._gradients = None
        total = torch.stack([n.cpu() for n in norms.values()]).sum().clamp(min=1e-30)
        return {f"grad_share/{name}": (value.cpu() / total).item() for name, value in norms.items()}


def check_trained(out: LossOutput) -> None:
    """Raise UserError where a term of the loss depends on no weight that is trained: it would count for nothing."""
    if lost := [name for name, value in out.terms.items() if not value.requires_grad]:
        raise UserError(
            f"nothing that is trained moves the loss term {lost[0]!r}: it reads states that lie before every adapter "
            "(model.target_modules, model.adapt_layers); adapt earlier weights, or switch the term off"
        )
