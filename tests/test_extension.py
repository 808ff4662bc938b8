"""A loss term, a transform and a source of one's own, added from outside the package without editing it."""

from dataclasses import replace

import pytest
import torch

from innerpo.config.run import default_run
from innerpo.data.pairs import PreferencePair, cluster_of
from innerpo.data.sources import SOURCES
from innerpo.errors import UserError
from innerpo.methods.records import Term
from innerpo.methods.transforms.transform import Transform
from innerpo.registry import TERMS, TRANSFORMS
from innerpo.run import train


def shrink_rejected(x):
    """A new term: the rejected response's states should be small (a toy; it needs states)."""
    return x.policy.rejected_states.square().mean((0, 2))


def first_half(inputs, method):
    """A new transform: the first half of the coordinates."""
    layers, _, hidden = inputs.pooled.shape
    return Transform("first_half", torch.eye(hidden)[: hidden // 2].repeat(layers, 1, 1))


def alphabet(name, split, data, bad):
    """A new source."""
    return [
        PreferencePair(
            f"After {c} comes", f" {chr(ord(c) + 1)}", " a", f"a/{split}/{c}", "alphabet", split, cluster_of(c)
        )
        for c in ("bcdefghijk" if split == "train" else "lmnop")
    ]


@pytest.fixture
def extended(monkeypatch):
    monkeypatch.setitem(TERMS, "shrink", Term(shrink_rejected, needs="states"))
    monkeypatch.setitem(TRANSFORMS, "first_half", first_half)
    monkeypatch.setitem(SOURCES, "alphabet", alphabet)


def test_term_transform_and_source_of_ones_own(extended, toy_folder, tmp_path):
    config = default_run("innerpo")
    config = replace(
        config,
        method=replace(config.method, layers="1", transform="first_half", extra={"shrink": 0.5}),
        model=replace(config.model, base_model=str(toy_folder), lora_r=2),
        data=replace(config.data, dataset="alphabet:x", cache_dir=tmp_path / "cache", batch_size=5),
        training=replace(config.training, save_steps=0, log_steps=1),
        eval=replace(config.eval, rnd_dataset="embedded:control", max_prompts=4, bootstrap=20),
        output_dir=tmp_path,
    )
    result = train(config)
    assert (tmp_path / "innerpo-first_half_alphabet-x_seed1" / "adapter_model.safetensors").is_file()
    log = (result.folder / "metrics.jsonl").read_text()
    assert "loss/shrink" in log
    assert "grad_share/shrink" in log
    from innerpo.training.directions_file import load_directions

    inner = load_directions(result.folder)
    assert inner.transform.basis.shape == (1, 16, 32)
    assert inner.directions.w.shape == (1, 16)


def test_unknown_term_is_named():
    with pytest.raises(UserError, match=r"unknown terms \['nope'\].*known: output"):
        replace(default_run("innerpo").method, extra={"nope": 1.0})
