"""Terms, output forms, directions, transforms, sources and shifts added from outside, without editing the package."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from innerpo.config.method import MethodConfig
from innerpo.config.run import default_run
from innerpo.data.pairs import PreferencePair, cluster_of
from innerpo.data.shifts import DistributionShift, default_target, suites
from innerpo.errors import UserError
from innerpo.methods.directions.direction import Direction
from innerpo.methods.records import Term, log_ratio_margin, unit
from innerpo.methods.transforms.transform import Transform
from innerpo.registry import (
    DIRECTIONS,
    GRADIENTS,
    METHODS,
    METRICS,
    OUTPUTS,
    SCORERS,
    SHIFTS,
    SOURCES,
    STATISTICS,
    TERMS,
    TRANSFORMS,
    Lazy,
    fact,
    resolve,
)
from innerpo.run import train
from innerpo.training.directions_file import load_directions


def shrink_rejected(x):
    """A new term: the rejected response's states should be small (a toy; it needs states)."""
    return x.policy.rejected_states.square().mean((0, 2))


def unlikely_rejected(x):
    """A new term on log-probabilities alone."""
    return x.policy.rejected_logps / x.policy.rejected_n_tokens


def slic(x):
    """A new output form: the hinge of SLiC-HF (arXiv 2305.10425) on the log-ratio margin."""
    return F.relu(1.0 - x.method.beta * log_ratio_margin(x.policy, x.reference))


def first_pair(x):
    """A new direction: the first pair's difference, for every pair."""
    w = unit(x.d[:, 0])
    return w, w[:, None].expand_as(x.d)


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
    monkeypatch.setitem(TERMS, "unlikely", Term(unlikely_rejected, needs="logps"))
    monkeypatch.setitem(OUTPUTS, "slic", slic)
    monkeypatch.setitem(DIRECTIONS, "first_pair", Direction(first_pair))
    monkeypatch.setitem(TRANSFORMS, "first_half", first_half)
    monkeypatch.setitem(SOURCES, "alphabet", alphabet)
    monkeypatch.setitem(SHIFTS, "mine", [DistributionShift("alphabet:x", "embedded:compare", "skill")])


def test_one_run_with_everything_of_ones_own(extended, toy_folder, tmp_path):
    config = default_run("innerpo")
    method = {"transform": "first_half", "direction": "first_pair", "output": "slic"}
    config = replace(
        config,
        method=replace(config.method, layers="1", extra={"shrink": 0.5, "unlikely": 0.1}, **method),
        model=replace(config.model, base_model=str(toy_folder), lora_r=2),
        data=replace(config.data, dataset="alphabet:x", cache_dir=tmp_path / "cache", batch_size=5),
        training=replace(config.training, save_steps=0, log_steps=1, lr=1e-2),
        eval=replace(config.eval, rnd_dataset="embedded:control", max_prompts=4),
        output_dir=tmp_path,
    )
    folder = train(config).folder
    assert (folder / "adapter_model.safetensors").is_file()
    log = (folder / "metrics.jsonl").read_text()
    assert '"loss/output": 1.0,' in log.splitlines()[0]  # the hinge at the reference
    assert "loss/shrink" in log
    assert "grad_share/unlikely" in log
    inner = load_directions(folder)
    assert inner.transform.basis.shape == (1, 16, 32)
    assert inner.directions.w.shape == (1, 16)


def test_a_shift_of_ones_own(extended):
    assert default_target("alphabet:x") == "embedded:compare"
    assert suites()["mine"][0].kind == "skill"


@pytest.mark.parametrize(
    "table",
    [TERMS, OUTPUTS, DIRECTIONS, TRANSFORMS, GRADIENTS, SOURCES, SCORERS, METRICS, STATISTICS],
    ids=lambda t: next(iter(t)),
)
def test_every_entry_is_importable_and_its_facts_are_true(table):
    for name, entry in table.items():
        found = resolve(table, name, "name")
        for key, stated in entry.facts.items() if isinstance(entry, Lazy) else ():
            assert getattr(found, key) == stated, (name, key)


def test_every_method_says_what_it_is():
    for name, fields in METHODS.items():
        assert fields["about"][0].isupper(), name
        assert fields["about"].endswith("."), name


def test_what_a_term_needs_decides_whether_a_method_reads_states(monkeypatch):
    """A term on log-probabilities alone has no direction to score along or to steer by."""
    monkeypatch.setitem(TERMS, "unlikely", Term(unlikely_rejected, needs="logps"))
    monkeypatch.setitem(TERMS, "shrink", Term(shrink_rejected, needs="states"))
    dpo = replace(default_run("dpo").method, extra={"unlikely": 1.0})
    assert not dpo.reads_states
    with pytest.raises(UserError, match="needs a weight"):
        replace(dpo, frozen=True)
    config = default_run("dpo")
    with pytest.raises(UserError, match="has no directions"):
        replace(config, method=dpo, eval=replace(config.eval, steer=1.0))
    with pytest.raises(UserError, match="dpo has no terms on hidden states, got shrink"):
        replace(dpo, extra={"shrink": 1.0})
    assert replace(dpo, name="innerpo", extra={"shrink": 1.0}, frozen=True).reads_states


def test_what_a_direction_declares_decides_what_it_goes_with(monkeypatch):
    monkeypatch.setitem(DIRECTIONS, "mine", Direction(first_pair))
    known = "shared, mix, lda, context, artifact"
    with pytest.raises(UserError, match=rf"method\.remove applies to the directions {known}, not to direction"):
        MethodConfig(direction="mine", remove=("length",))
    with pytest.raises(UserError, match=r"needs method\.direction shared or random, not mine"):
        MethodConfig(direction="mine", gradient="projgrad")
    monkeypatch.setitem(DIRECTIONS, "mine", Direction(first_pair, remove=True, gradients=True))
    MethodConfig(direction="mine", remove=("length",))
    MethodConfig(direction="mine", gradient="projgrad")


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"output": "dpp"}, "unknown method.output 'dpp'; did you mean"),
        ({"direction": "sharde"}, "unknown method.direction 'sharde'; did you mean 'shared'"),
        ({"transform": "othro"}, "unknown method.transform 'othro'; did you mean 'ortho'"),
        ({"gradient": "projgard"}, "unknown method.gradient 'projgard'; did you mean 'projgrad'"),
        ({"extra": {"nope": 1.0}}, r"unknown terms \['nope'\].*known: output"),
    ],
)
def test_a_wrong_name_is_named(field, message):
    with pytest.raises(UserError, match=message):
        MethodConfig(**field)


def test_configs_of_every_method_import_no_torch():
    code = "from innerpo.config.method import *; import sys; [default_method(n) for n in method_names()]"
    subprocess.run([sys.executable, "-c", code + "; assert 'torch' not in sys.modules"], check=True)


def test_a_plain_string_works_where_facts_are_needed(monkeypatch):
    monkeypatch.setitem(TERMS, "again", "innerpo.methods.terms.inner:inner")
    assert fact(TERMS, "again", "needs", "loss term") == "states"
