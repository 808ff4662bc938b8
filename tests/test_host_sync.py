"""A training step asks the device for no value: on a GPU the host would wait there until all work before is done."""

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.systems import fitted
from conftest import build_model, build_tokenizer
from innerpo.config import default_run
from innerpo.data.tokens import Tokens
from innerpo.model.load import LoadedModel, add_adapter
from innerpo.training.train import training_arguments
from innerpo.training.trainer import PairCollator, PairTrainer

# What needs a value on the host: .item(), bool(), a mask as an index (whose size is a value), torch.equal.
LOOKS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal", "aten::is_nonzero"}


class Looks(TorchDispatchMode):
    """Collects the operations that need a value on the host."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        by_mask = "index" in name and any(
            isinstance(i, torch.Tensor) and i.dtype == torch.bool for a in args[1:2] if isinstance(a, list) for i in a
        )
        if name in LOOKS or by_mask:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def test_a_look_is_seen():
    x = torch.tensor([1.0, 2.0])
    with Looks() as looks:
        float(x.sum())
        x[x > 1]
        torch.equal(x, x)
    assert looks.found == ["aten::_local_scalar_dense", "aten::index", "aten::equal"]


@pytest.mark.parametrize("name", ["dpo", "innerpo", "innerpo-ether", "prefvec-hra", "sft", "simpo", "ipo"])
def test_a_step_does_not_wait_for_the_device(name, pairs, tmp_path):
    tokenizer = build_tokenizer()
    config = default_run(name)
    config = replace(
        config,
        method=replace(config.method, layers="1,2"),
        data=replace(config.data, batch_size=4, pass_tokens=100),
        output_dir=tmp_path,
    )
    base = LoadedModel(build_model().requires_grad_(False), tokenizer, "toy", "toy")
    items = Tokens(tokenizer, 256, 256).training_items(pairs)
    method, reference, layout = fitted(base, items, config, "toy", tmp_path)
    policy = add_adapter(base, config.model, 1)
    collator = PairCollator(items, reference, layout, base.pad_id, 100)
    trainer = PairTrainer(policy, training_arguments(config), method, collator)
    trainer.looks_at_every_pass = False  # as on a GPU
    trainer.create_optimizer()
    batch = collator(range(8))
    assert len(batch["passes"]) > 1
    looks = Looks()
    for _ in range(2):
        with looks:
            trainer.training_step(policy, batch, trainer._get_num_items_in_batch([batch], torch.device("cpu")))
            torch.nn.utils.clip_grad_norm_([p for p in policy.parameters() if p.requires_grad], 1.0)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
        assert looks.found == []
    assert len(trainer._unchecked) == 2 * len(batch["passes"])
    trainer._raise_if_not_finite()
    assert trainer._unchecked == []
