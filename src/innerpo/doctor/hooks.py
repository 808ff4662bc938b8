"""Checks of what training does to states in forward passes: ablation and inoculation."""

import math

import torch

from innerpo.doctor.setup import Setup
from innerpo.model.forward.outputs import SequenceOutputs, StateRequest, sequence_outputs

LEFT = 1e-5
"""Largest component of a normalised state that counts as none."""


def hook_checks(setup: Setup) -> list[tuple[str, str, bool]]:
    """Under the hooks of training states are as the method says; afterwards they are, to the bit, what they were."""
    method = setup.method
    if method.ablation is None and method.inoculation is None:
        return []
    before = _states(setup)
    with method.policy_while_training(setup.policy, setup.batch):
        under = _states(setup)
    after = _states(setup)
    same = all(torch.equal(a, b) for a, b in zip(_tensors(before), _tensors(after), strict=True))
    checks = [("states after training", "the same to the bit" if same else "changed", same)]
    return checks + _ablated(setup, under) + _inoculated(setup, before, under)


@torch.no_grad()
def _states(setup: Setup) -> SequenceOutputs:
    return sequence_outputs(setup.policy, setup.batch, StateRequest(setup.method.layers, token_states=True))


def _tensors(outputs: SequenceOutputs) -> list[torch.Tensor]:
    assert outputs.token_states is not None
    return [outputs.logps, outputs.token_states]


def _ablated(setup: Setup, under: SequenceOutputs) -> list[tuple[str, str, bool]]:
    """While training, the states have no component in the cue."""
    ablation = setup.method.ablation
    if ablation is None or ablation.share != 1.0:
        return []
    assert under.token_states is not None
    left = float((under.token_states @ ablation.basis.to(under.token_states)).abs().max())
    return [("cue in the states while training", f"{left:.1e}, should be 0", left < LEFT)]


def _inoculated(setup: Setup, before: SequenceOutputs, under: SequenceOutputs) -> list[tuple[str, str, bool]]:
    """While training, chosen and rejected lie further apart along the cue (nearer, with a negative kappa)."""
    method = setup.method
    if method.inoculation is None:
        return []
    assert method.subspace is not None
    assert before.pooled is not None
    assert under.pooled is not None
    first = min(range(len(method.layers)), key=lambda i: method.layers[i])  # no other block's push comes before it
    moved = (under.pooled - before.pooled)[first] @ method.subspace.basis[first, :, 0].to(under.pooled)
    apart = float((moved[0::2] - moved[1::2]).mean() / (2.0 * method.subspace.scale[first]))
    wanted = method.config.inoculate
    right = math.copysign(1.0, wanted) * apart > 0.0
    return [("push along the cue", f"{apart:.2g} standard deviations a response, kappa is {wanted:g}", right)]
