"""Helpers of the tests of sharing: a toy run whose adapter does something."""

import torch
from safetensors.torch import load_file, save_file

import innerpo

TOY = {
    "data.max_train_prompts": 4,
    "data.batch_size": 4,
    "training.max_steps": 1,
    "training.grad_share_steps": 0,
    "eval.max_prompts": 4,
}


def move(model, scale, only=""):
    """Add noise to the parameters of a model."""
    g = torch.Generator().manual_seed(5)
    for name, p in model.named_parameters():
        if only in name:
            p.data += scale * torch.randn(p.shape, generator=g).to(p)
    return model


def toy_run(out, model, method="dpo", *, scored=False, data="embedded:compare", **options):
    """The folder of a run on a toy model; its adapter is moved far from zero."""
    whole = TOY | {"output_dir": out, "model.base_model": str(model), "eval.skip": not scored} | options
    folder = innerpo.train(None, method, data=data, **whole).folder
    path = folder / "adapter_model.safetensors"
    if path.is_file():
        g = torch.Generator().manual_seed(7)
        held = load_file(path)
        moved = {n: t + 0.1 * torch.randn(t.shape, generator=g) * ("lora_B" in n) for n, t in held.items()}
        save_file(moved, path, {"format": "pt"})
    return folder
