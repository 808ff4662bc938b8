"""The learning rate as transformers' Trainer steps it, for every scheduler and both meanings of warm-up."""

from dataclasses import replace

import pytest
import torch
from transformers import get_scheduler

from innerpo.config.run import default_run
from innerpo.config.training import TrainingConfig
from innerpo.errors import UserError
from innerpo.training.arguments import training_arguments

STEPS = 20


def rates(tmp_path, **training):
    """The learning rates of 20 steps, as multiples of the peak."""
    config = replace(default_run("dpo"), training=TrainingConfig(lr=1.0, **training), output_dir=tmp_path)
    args = training_arguments(config)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=args.learning_rate)
    scheduler = get_scheduler(args.lr_scheduler_type, optimizer, args.get_warmup_steps(STEPS), STEPS)
    found = []
    for _ in range(STEPS):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("scheduler", ["linear", "cosine", "constant"])
@pytest.mark.parametrize(("warmup", "steps"), [(0.0, 0), (0.25, 5), (1.0, 1), (4.0, 4)])
def test_every_scheduler_warms_up_over_a_fraction_or_a_number_of_steps(tmp_path, scheduler, warmup, steps):
    found = rates(tmp_path, scheduler=scheduler, warmup=warmup)
    assert found[:steps] == pytest.approx([i / steps for i in range(steps)])
    assert found[steps] == 1.0
    assert (found[-1] == 1.0) == (scheduler == "constant")


def test_warmup_is_a_fraction_or_a_whole_number():
    with pytest.raises(UserError, match=r"training\.warmup must be a fraction of the steps .* whole number.* got 1\.5"):
        TrainingConfig(warmup=1.5)
