"""The heads reader: heads are slices of o_proj's input, the best are found, m is the mean of cosines."""

import pytest
import torch

from conftest import build_model
from innerpo.errors import UserError
from innerpo.methods.heads import HeadsReader, fit_heads, head_count, split_heads


def test_heads_are_consecutive_slices_of_the_width():
    d = torch.arange(12.0).reshape(2, 1, 6)
    assert split_heads(d, 3).squeeze(1).tolist() == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11]]
    with pytest.raises(UserError, match="width 6 are no outputs of 4 heads"):
        split_heads(d, 4)


def test_the_count_is_that_of_the_queries():
    model = build_model()  # 4 heads of queries, 2 of keys
    assert head_count(model) == 4
    assert model.model.layers[0].self_attn.o_proj.in_features == 4 * 8


def test_m_is_the_mean_of_cosines_by_hand():
    reader = HeadsReader(2, torch.tensor([0, 3]), torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.ones(2))
    d = torch.tensor([[[3.0, 4.0, 9.0, 9.0]], [[9.0, 9.0, 0.0, -5.0]]])  # 2 layers, 1 pair, 2 heads of size 2
    torch.testing.assert_close(reader(d), torch.tensor([(0.6 - 1.0) / 2]))
    torch.testing.assert_close(reader(7.0 * d), reader(d))
    torch.testing.assert_close(reader(-d), -reader(d))


def planted(seed=0):
    """Differences of 3 layers with 4 heads of size 5; heads 2 and 9 hold the preference."""
    d = torch.randn(3, 60, 20, generator=torch.Generator().manual_seed(seed))
    by_head = d.reshape(3, 60, 4, 5)
    by_head[0, :, 2] += torch.tensor([2.0, 0, 0, 0, 0])
    by_head[2, :, 1] += torch.tensor([0, 0, -2.0, 0, 0])
    return d


def test_the_heads_that_hold_the_preference_are_found():
    reader = fit_heads(planted(), torch.arange(60), 4, kept=2)
    assert sorted(reader.chosen.tolist()) == [2, 9]
    assert reader.accuracy.min() > 0.9
    assert (reader(planted(1)) > 0).float().mean() > 0.9
    drawn = fit_heads(planted(), torch.arange(60), 4, kept=2, random_seed=0)
    assert drawn.chosen.tolist() != reader.chosen.tolist()
    everything = fit_heads(planted(), torch.arange(60), 4, kept=12, random_seed=0)
    assert sorted(everything.chosen.tolist()) == list(range(12))


def test_accuracy_is_that_on_prompts_left_out():
    """Without any preference it is near one half, though each direction fits its own pairs."""
    d = torch.randn(1, 40, 64, generator=torch.Generator().manual_seed(0))
    found = fit_heads(d, torch.arange(40), 1, kept=1)
    own = ((d[0] @ found.w[0]) > 0).float().mean()
    assert own > 0.7
    assert found.accuracy[0] < 0.6
    twice = fit_heads(d.repeat_interleave(2, 1), torch.arange(40).repeat_interleave(2), 1, kept=1)
    torch.testing.assert_close(twice.accuracy, found.accuracy)  # a prompt's pairs are left out together
