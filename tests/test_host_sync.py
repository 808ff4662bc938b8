"""A training step asks the device for no value: on a GPU the host would wait there until all work before is done.

Seen here, on a CPU: operations that need a value. Copies between devices are not, so the last test needs a GPU.
"""

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data._utils.pin_memory import pin_memory

from conftest import build_model, build_tokenizer
from innerpo.config.run import default_run
from innerpo.data.tokens import PairTokenizer
from innerpo.model.adapters import add_adapter
from innerpo.model.base import Base
from innerpo.model.loading import device
from innerpo.training.arguments import training_arguments
from innerpo.training.prepare import prepare_items
from innerpo.training.trainer import PairTrainer

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


NAMES = ["dpo", "innerpo", "innerpo-ether", "prefvec-hra", "sft", "simpo", "ipo"]


def trainer_of(name, pairs, tmp_path):
    """A trainer on toy pairs that looks at losses as late as on a GPU, and a batch of several passes."""
    config = default_run(name)
    config = replace(
        config,
        method=replace(config.method, layers="1,2"),
        data=replace(config.data, batch_size=4, micro_batch_tokens=100),
        output_dir=tmp_path,
    )
    place = device()
    base = Base(build_model().requires_grad_(False).to(place), build_tokenizer(), "toy", "toy")
    items = PairTokenizer(base.tokenizer, 256, 256).training_items(pairs)
    prepared = prepare_items(config, base, items, cache_dir=tmp_path)
    policy = add_adapter(base, config.model, 1)
    collator = replace(prepared.pairs, micro_batch_tokens=100)
    trainer = PairTrainer(policy, training_arguments(config), prepared.method, collator)
    trainer.checks_every_micro_batch = False
    trainer.create_optimizer()
    batch = collator(range(8))
    assert len(batch["micro_batches"]) > 1
    return trainer, batch


def step(trainer, batch):
    trainer.training_step(trainer.model, batch, trainer._get_num_items_in_batch([batch], trainer.args.device))
    torch.nn.utils.clip_grad_norm_([p for p in trainer.model.parameters() if p.requires_grad], 1.0)
    trainer.optimizer.step()
    trainer.optimizer.zero_grad()


@pytest.mark.parametrize("name", NAMES)
def test_a_step_looks_at_no_value(name, pairs, tmp_path):
    trainer, batch = trainer_of(name, pairs, tmp_path)
    looks = Looks()
    for _ in range(2):
        with looks:
            step(trainer, batch)
        assert looks.found == []
    assert len(trainer._unchecked) == 2 * len(batch["micro_batches"])
    trainer.check_losses()
    assert trainer._unchecked == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, whose driver tells when the host waits")
@pytest.mark.parametrize("name", NAMES)
def test_a_step_on_a_gpu_does_not_wait(name, pairs, tmp_path):
    trainer, batch = trainer_of(name, pairs, tmp_path)
    batch = {"micro_batches": [p.pin_memory() for p in batch["micro_batches"]]}
    step(trainer, batch)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(trainer, batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_what_a_method_holds_goes_to_the_device_with_it(pairs, tmp_path):
    trainer, _ = trainer_of("innerpo-ether", pairs, tmp_path)
    moved = trainer.method.to(torch.device("meta"))
    tensors = [moved.transform.basis, *(t for t in vars(moved.directions).values() if isinstance(t, torch.Tensor))]
    assert len(tensors) > 4
    assert {t.device.type for t in tensors} == {"meta"}


def test_the_loader_pins_every_tensor_of_a_batch(pairs, tmp_path, monkeypatch):
    """Torch's own function for that, with a stand-in for page-locked memory, which a build without CUDA has not."""
    _, batch = trainer_of("innerpo", pairs, tmp_path)
    pinned = []

    def pin(tensor, device=None):
        pinned.append(copy := tensor.clone())
        return copy

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    found = pin_memory(batch)
    held = [
        t
        for pairs_of in found["micro_batches"]
        for part in (pairs_of.tokens, pairs_of.reference)
        for t in vars(part).values()
        if isinstance(t, torch.Tensor)
    ]
    assert len(held) > 20
    assert {id(t) for t in held} == {id(t) for t in pinned}
    assert [p.ids for p in found["micro_batches"]] == [p.ids for p in batch["micro_batches"]]
