"""The order of pairs: random steps that the seed decides, no pair weighted by its length, epochs across resuming."""

import pytest
import torch
from accelerate.data_loader import prepare_data_loader, skip_first_batches
from torch.utils.data import DataLoader
from transformers import TrainerControl, TrainerState

from innerpo.config.run import default_run
from innerpo.training import trainer
from innerpo.training.sampler import PairSampler, SetEpoch, first_indices, first_steps
from test_training import train


def test_every_pair_comes_once_an_epoch():
    sampler = PairSampler(101, seed=0)
    first = list(sampler)
    assert sorted(first) == list(range(101))
    assert list(sampler) == first
    sampler.set_epoch(1)
    assert sorted(sampler) == list(range(101))
    assert list(sampler) != first


def composition(seed, epoch, n=96, size=8):
    """The pairs of each step of an epoch, whatever the order of the steps."""
    sampler = PairSampler(n, seed)
    sampler.set_epoch(epoch)
    order = list(sampler)
    return {frozenset(order[k : k + size]) for k in range(0, n, size)}


def test_steps_hold_other_pairs_with_another_seed_and_in_another_epoch():
    one = composition(1, 0)
    assert one == composition(1, 0)
    for other in (composition(2, 0), composition(1, 1)):
        assert not one & other  # of 12 steps; with pools sorted by length all of them were the same


def test_no_pair_weighs_more_and_any_two_meet_as_often():
    """Over 4,000 seeds of 20 pairs, 8 a step: the last step has 4, each of which counts twice in its mean loss."""
    n, size, seeds = 20, 8, 4000
    weight, together = torch.zeros(n), torch.zeros(n, n)
    for seed in range(seeds):
        for step in first_steps(n, size, seed, steps=3):
            weight[step] += 1 / len(step)
            together[torch.tensor(step)[:, None], torch.tensor(step)] += 1
    # Mean 3 / 20 per epoch; one pair's standard error is .0008, so .005 is six of them.
    assert (weight / seeds - 3 / n).abs().max() < 0.005
    # Two pairs share a step with probability (2 x 8 x 7 + 4 x 3) / (20 x 19) = .326, standard error .0074.
    apart = ~torch.eye(n, dtype=torch.bool)
    assert (together[apart] / seeds - 124 / 380).abs().max() < 0.037


def test_first_steps_are_those_of_the_sampler_across_epochs():
    sampler, expected = PairSampler(20, seed=3), []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        order = list(sampler)
        expected += [order[:8], order[8:16], order[16:]]
    assert first_steps(20, 8, 3, steps=5) == expected[:5]
    assert first_indices(20, 8, 3, steps=2) == expected[0] + expected[1]
    assert first_indices(20, 8, 3, steps=5) == [i for step in expected[:3] for i in step]
    assert first_indices(20, 8, 3, steps=0) == first_steps(0, 8, 3, steps=2) == []


@pytest.mark.parametrize("accumulation", [1, 2])
def test_first_steps_are_what_a_run_trains_on(tmp_path, monkeypatch, accumulation):
    """Into the second epoch: three steps of 22 pairs (8, 8, 6), then two."""
    collated = []
    plain = trainer.PairCollator.__call__
    monkeypatch.setattr(
        trainer.PairCollator, "__call__", lambda self, indices: collated.extend(indices) or plain(self, indices)
    )
    settings = {"max_steps": 5, "gradient_accumulation": accumulation}
    train(tmp_path, n_pairs=22, data={"batch_size": 8 // accumulation}, training=settings)
    steps = first_steps(22, 8, default_run("dpo").training.seed, steps=5)
    wanted = [i for step in steps for i in step]
    assert collated[: len(wanted)] == wanted  # the loader may have collated one batch more
    assert sorted(first_indices(22, 8, 0, steps=5)) == list(range(22))


def test_epochs_reach_the_sampler_where_accelerate_does_not_forward_them():
    """Several processes, resumed within an epoch: the batch sampler is wrapped twice, set_epoch stops at the first."""
    sampler = PairSampler(20, seed=0)
    loader = prepare_data_loader(DataLoader(range(20), batch_size=2, sampler=sampler), num_processes=2, process_index=0)
    loader.set_epoch(1)
    assert sampler.epoch == 1
    skip_first_batches(loader, 2).set_epoch(2)
    assert sampler.epoch == 1  # if this fails, accelerate forwards it and SetEpoch can go
    SetEpoch(sampler).on_epoch_begin(None, TrainerState(epoch=2.4), TrainerControl())
    assert sampler.epoch == 2
