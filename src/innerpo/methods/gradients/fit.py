"""Directions of gradient methods: the reference's mean difference at the output of each adapted module."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor, nn

from innerpo.data.batching.batch import TokenBatch
from innerpo.data.batching.row_plan import Layout
from innerpo.data.divergence import first_divergence
from innerpo.data.tokens import PromptItem, hash_of_items
from innerpo.errors import UserError
from innerpo.methods.directions.direction import direction_of
from innerpo.methods.generators import generator_for
from innerpo.methods.gradients.edit import ModuleKey, adapted_modules, check_projectable
from innerpo.methods.method import Method
from innerpo.methods.records import unit
from innerpo.model.base import Base, reference_mode
from innerpo.model.cache import content_key, load_tensors, save_tensors
from innerpo.model.forward.blocks import decoder_blocks, state_of
from innerpo.model.forward.outputs import Pool, pool_weights, rms_normalise, sequence_outputs
from innerpo.model.forward.passes import batches
from innerpo.model.identity import environment_key
from innerpo.registry import GRADIENTS, resolve

log = logging.getLogger(__name__)

RESIDUAL_WRITERS = ("o_proj", "down_proj", "out_proj", "c_proj", "dense_4h_to_h", "fc2", "wo", "w2")
"""Last names of modules whose output is added to the residual stream; they use the direction of the block's output."""


def fit_gradients(
    method: Method,
    policy: nn.Module,
    base: Base,
    items: Sequence[PromptItem],
    layout: Layout,
    *,
    batch_size: int,
    cache_dir: Path,
    seed: int,
) -> Method:
    """Measure the directions with the adapter off and return the method with its gradient edit.

    A method without ``gradient`` is returned unchanged. Raises UserError where no decoder block has an adapted module.
    """
    config = method.config
    if config.gradient == "none":
        return method
    check_projectable(policy)
    modules = adapted_modules(policy)
    if not modules:
        raise UserError(
            f"method.gradient={config.gradient} needs an adapted module in the decoder blocks; see model.target_modules"
        )
    direction = direction_of(config)
    if direction.draw is not None:
        means = {
            key: direction.draw(module.out_features, generator_for(seed, "gradient/{}/{}".format(*_read_at(key))))
            for key, module in modules.items()
        }
    else:
        cache_key = content_key(
            weights=base.identity,
            environment=environment_key(base.model),
            layout=layout,
            items=hash_of_items(items),
            pool=config.pool,
            divergence=[first_divergence(i) for i in items] if config.pool == "first_divergence" else [],
            modules=sorted(modules),
        )
        path = cache_dir / "reference" / f"modules-{cache_key}.safetensors"
        with PartialState().main_process_first():
            found = load_tensors(path)
            if found is None:
                means = mean_differences(policy, list(modules), items, layout, base.pad_id, config.pool, batch_size)
                save_tensors(path, {f"{block}/{name}": mean for (block, name), mean in means.items()})
            else:
                means = {(block, name): found[f"{block}/{name}"] for block, name in modules}
    log.info(f"{config.gradient}: {config.direction} directions at {len(modules)} modules, kappa {config.kappa:g}")
    device = next(policy.parameters()).device
    directions = {key: unit(mean.float()).to(device) for key, mean in means.items()}
    edit = resolve(GRADIENTS, config.gradient, "gradient method")(directions, config.kappa)
    return replace(method, gradient_edit=edit)


def _read_at(key: ModuleKey) -> ModuleKey:
    """The module at which the direction of a module is read, "" for its whole block: several may share one."""
    return (key[0], "") if key[1].split(".")[-1] in RESIDUAL_WRITERS else key


def mean_differences(
    model: nn.Module,
    keys: Sequence[ModuleKey],
    items: Sequence[PromptItem],
    layout: Layout,
    pad_id: int,
    pool: Pool,
    batch_size: int,
) -> dict[ModuleKey, Tensor]:
    """Return mean_i [s(y_c) - s(y_r)] at the output of every module, s pooled over RMS-normalised tokens.

    For modules that write into the residual stream the output of their whole block is read instead.
    """
    blocks = decoder_blocks(model)
    sums: dict[ModuleKey, Tensor] = {}
    state: dict[str, Any] = {}

    def hook_for(key: ModuleKey) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            batch: TokenBatch = state["batch"]
            found = state_of(output)
            if found.shape[:2] != batch.input_ids.shape:
                raise UserError(
                    f"block {key[0]}, {key[1] or 'output'}: not one output per token (a mixture of experts?)"
                )
            with torch.autocast(found.device.type, enabled=False):  # states are pooled in float32
                pooled = state["weights"] @ rms_normalise(found.flatten(0, 1)[batch.completion])
            difference = (pooled[0::2] - pooled[1::2]).sum(0).double().cpu()
            sums[key] = sums[key] + difference if key in sums else difference

        return hook

    read_at = {key: _read_at(key) for key in keys}
    handles = [
        blocks[i].get_submodule(name).register_forward_hook(hook_for((i, name)))
        for i, name in dict.fromkeys(read_at.values())
    ]
    device = next(model.parameters()).device
    try:
        what = f"directions at {len(keys)} modules"
        for _, batch in batches(items, layout, pad_id, batch_size, device, what):
            state["batch"], state["weights"] = batch, pool_weights(batch, pool)
            with reference_mode(model):
                sequence_outputs(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return {key: sums[source] / len(items) for key, source in read_at.items()}
