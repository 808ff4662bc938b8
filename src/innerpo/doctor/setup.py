"""What is examined: a method on one batch of its training pairs, prepared as training does."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from innerpo.config.run import RunConfig
from innerpo.data.batching.batch import TokenBatch, make_batch
from innerpo.data.pairs import choose_negatives, shuffle_labels
from innerpo.data.tokens import PairTokenizer
from innerpo.data.training_pairs import training_pairs
from innerpo.errors import UserError
from innerpo.files import cache_root
from innerpo.methods.gradients.fit import fit_gradients
from innerpo.methods.method import LossOutput, Method, build_method, fit_method
from innerpo.methods.records import PairOutputs
from innerpo.model.adapters import add_adapter
from innerpo.model.forward.blocks import decoder_blocks
from innerpo.model.forward.layout import choose_layout
from innerpo.model.forward.outputs import sequence_outputs
from innerpo.model.layer_spec import resolve_layers
from innerpo.model.loading import load_base
from innerpo.model.reference import compute_reference

Parameters = list[nn.Parameter]


@dataclass(frozen=True)
class Patient:
    """A method on one batch: everything that a check needs to ask again after the parameters moved."""

    method: Method
    policy: Any
    batch: TokenBatch
    reference: PairOutputs
    parameters: Parameters

    def outputs(self) -> PairOutputs:
        """Return what the policy, as its parameters are now, gives for the batch."""
        found = sequence_outputs(self.policy, self.batch, self.method.request)
        return PairOutputs.of(found, self.batch, self.method.transform)

    def loss(self) -> LossOutput:
        """Return the loss of that, with its terms."""
        return self.method.loss(self.outputs(), self.reference)


def admit(config: RunConfig, scratch: Path) -> Patient:
    """Prepare a method as training does, on few pairs, in float32, with nothing cached but the model."""
    data = config.data
    model = replace(config.model, dtype="float32") if config.model.dtype == "auto" else config.model
    pairs = choose_negatives(training_pairs(config), data.negatives, data.seed)
    pairs = shuffle_labels(pairs, data.shuffled_labels, data.seed)
    base = load_base(model, cache_root(data.cache_dir))
    method = build_method(config.method, resolve_layers(config.method.layers, len(decoder_blocks(base.model))))
    items = PairTokenizer(base.tokenizer, data.max_prompt_tokens, data.max_response_tokens).training_items(pairs)
    if not items:
        raise UserError(f"{data.dataset} has no pair left to check a method on")
    layout = choose_layout(base.model, items, base.pad_id, data.layout).layout
    common: dict[str, Any] = {"batch_size": data.batch_size, "cache_dir": scratch}
    reference = compute_reference(
        base, items, layout, method.request, what=f"{data.dataset} ({len(items)} pairs)", **common
    )
    method = fit_method(method, reference, base.model, config.training.seed, layout, base.pad_id)
    device = next(base.model.parameters()).device
    batch = make_batch(items[: data.batch_size], layout, base.pad_id).to(device)
    policy: Any = add_adapter(base, model, config.training.seed)
    policy.eval()
    method = fit_gradients(method, policy, base, items, layout, seed=config.training.seed, **common)
    method = method.to(device)
    with torch.no_grad():  # a fresh adapter is the reference; its own pass, so that this holds to the last bit
        outputs = sequence_outputs(policy, batch, method.request)
    parameters = [p for p in policy.parameters() if p.requires_grad]
    return Patient(method, policy, batch, PairOutputs.of(outputs, batch, method.transform), parameters)
