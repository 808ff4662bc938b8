"""projbp: the gradient that flows back through each adapted module's output is projected on its direction."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from innerpo.methods.gradients.edit import GradientEdit, adapted_modules, project


class ProjBp(GradientEdit):
    """dL/dy becomes w w^T dL/dy + kappa (I - w w^T) dL/dy at the module's output y, token by token.

    So both A and B of an adapter see the projected gradient, and so does everything before the module, where each
    adapted module on the way back projects again. A hook on the output tensor does it: with checkpointing the
    backward pass runs through the first forward's graph, so it fires once.
    """

    @contextmanager
    def installed(self, model: nn.Module) -> Iterator[None]:
        """Hold the hooks."""
        modules = adapted_modules(model)
        handles = [modules[place].register_forward_hook(self._hook(w)) for place, w in self.directions.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, w: Tensor) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            if output.requires_grad:
                output.register_hook(lambda g: project(g, w, self.kappa))

        return hook
