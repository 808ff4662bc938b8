"""projgrad: each adapted module's accumulated weight gradient is projected on its preference direction."""

from torch import nn

from innerpo.methods.gradients.edit import GradientEdit, adapted_modules, project


class ProjGrad(GradientEdit):
    """G becomes w w^T G + kappa (I - w w^T) G for every parameter whose rows are the module's outputs.

    With LoRA, y = W x + s B A x, that parameter is B. Its gradient is s (dL/dy) (A x)^T, so projecting it equals
    projecting dL/dy. The gradient of A lies in the module's input space and is not edited. In full fine-tuning the
    parameters are the weight and the bias of a linear module.
    """

    def after_backward(self, model: nn.Module) -> None:
        """Project in place."""
        modules = adapted_modules(model)
        for key, w in self.directions.items():
            for parameter in output_parameters(modules[key]):
                if parameter.grad is not None:
                    parameter.grad.copy_(project(parameter.grad.movedim(0, -1), w, self.kappa).movedim(-1, 0))


def output_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Return the trained parameters whose first axis is the module's output."""
    if hasattr(module, "lora_B"):
        found = [p for b in module.lora_B.values() for p in b.parameters()]  # type: ignore[operator]
    else:
        found = [p for p in (module.weight, module.bias) if isinstance(p, nn.Parameter)]
    return [p for p in found if p.requires_grad]
