"""projbp: the gradient with respect to each adapted module's output is projected on its preference direction."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from torch import Tensor, nn

from innerpo.methods.gradients.edit import GradientEdit, adapted_modules, project


class ProjBp(GradientEdit):
    """dL/dy becomes w w^T dL/dy + kappa (I - w w^T) dL/dy at the module's output y, for every token.

    Both A and B of an adapter get the projected gradient, and so does everything before the module, where each adapted
    module projects again. The projection is a hook on the output tensor. With activation checkpointing the backward
    pass uses the tensors of the first forward pass, so the hook runs once.
    """

    hooks_modules: ClassVar[bool] = True

    @contextmanager
    def installed(self, model: nn.Module) -> Iterator[None]:
        """Keep the hooks on the model inside a ``with`` block."""
        modules = adapted_modules(model)
        handles = [modules[key].register_forward_hook(self._hook(w)) for key, w in self.directions.items()]
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
