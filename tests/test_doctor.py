"""`innerpo doctor`: every method of the table passes, broken terms are caught, labels are seen by the right terms."""

from dataclasses import replace

import pytest
import torch

from conftest import build_model, build_tokenizer
from innerpo.cli.verbs import main
from innerpo.config.data import DataConfig
from innerpo.config.method import MethodConfig
from innerpo.config.run import default_run
from innerpo.doctor.checks import run_checks
from innerpo.errors import UserError
from innerpo.methods.method import LossOutput
from innerpo.methods.records import Term, log_ratio_margin
from innerpo.model.base import Base
from innerpo.registry import METHODS, TERMS
from innerpo.training.shares import GradientShares


@pytest.fixture
def diagnose(toy_folder, tmp_path):
    def run(name="innerpo", data=None, lora_r=4, **method):
        config = default_run(name)
        return run_checks(
            replace(
                config,
                method=replace(config.method, **method),
                model=replace(config.model, base_model=str(toy_folder), lora_r=lora_r),
                data=replace(
                    config.data, dataset="embedded:longer", max_train_prompts=16, cache_dir=tmp_path / "cache"
                ),
            )
        )

    return run


def term_of(diagnosis, name):
    return next(term for term in diagnosis.terms if term.name == name)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_of_the_table_passes(name, diagnose):
    found = diagnose(name)
    assert found.failures == []
    assert {t.name for t in found.terms} == set(default_run(name).method.term_weights())
    assert sum(t.share for t in found.terms) == pytest.approx(1.0)
    assert all((t.gradient, t.sign) == ("ok", "ok") for t in found.terms)
    whole = {what for what, _, _ in found.whole}
    assert ("margin at the reference" in whole) == bool(default_run(name).method.state_terms)
    assert ("drift at the reference" in whole) == ("drift" in default_run(name).method.term_weights())
    assert (f"{name} gradient" in whole) == (name in ("projgrad", "projbp"))


@pytest.mark.parametrize(
    "method",
    [
        {"direction": "pair"},
        {"direction": "mix"},
        {"direction": "lda"},
        {"transform": "ether"},
        {"inner": "logistic"},
        {"inner": "linear"},
        {"pool": "first_divergence"},
    ],
    ids=str,
)
def test_every_term_at_once_passes_with_any_direction(method, diagnose):
    on = dict.fromkeys(("angle", "separation", "coherence", "sft", "reroute", "retain"), 0.1)
    found = diagnose("innerpo", **on, **method)
    assert found.failures == []
    seen = {t.name for t in found.terms if t.labels.startswith("change")}
    expected = {"output", "coherence", "sft", "reroute", "retain"}
    expected |= set() if method.get("direction") == "pair" else {"inner", "angle"}
    expected |= {"drift"} if method.get("direction") == "mix" else set()
    assert seen == expected


def test_full_fine_tuning_passes(diagnose):
    assert diagnose("dpo", lora_r=0).failures == []


def test_a_negative_weight_is_no_fault(diagnose):
    assert diagnose("innerpo", separation=-0.1).failures == []


def wrong_sign(x):
    """Its value is the log-ratio margin's loss, its gradient the opposite."""
    value = -log_ratio_margin(x.policy, x.reference)
    return 2.0 * value.detach() - value


def under_no_grad(x):
    with torch.no_grad():
        return x.policy.chosen_states.square().mean((0, 2)).clone()


def not_a_number(x):
    difference = x.policy.chosen_logps - x.policy.chosen_logps
    return difference.square().sqrt()  # gradient 0 * inf


BROKEN = {
    "wrong_sign": (Term(wrong_sign, "logps"), "a step down its gradient does not lower it"),
    "no_gradient": (Term(under_no_grad, "states"), "no gradient reaches the adapter"),
    "nan": (Term(not_a_number, "logps"), "its gradient is not finite"),
    "blind": (
        Term(lambda x: -x.policy.chosen_logps - x.policy.rejected_logps, "logps", sees_labels=True),
        "does not see the labels, and should",
    ),
    "peeking": (
        Term(lambda x: -x.policy.chosen_logps, "logps", sees_labels=False),
        "sees the labels, and should not",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_term_is_caught_and_the_others_are_not_blamed(name, diagnose, monkeypatch):
    term, fault = BROKEN[name]
    monkeypatch.setitem(TERMS, name, term)
    found = diagnose("innerpo", extra={name: 0.5})
    assert found.failures[0] == f"{name}: {fault}"
    assert set(found.failures[1:]) <= {f"gradients at the reference: not finite: {name}"}


def test_an_outside_term_that_declares_nothing_is_reported_not_judged(diagnose, monkeypatch):
    monkeypatch.setitem(TERMS, "mine", Term(lambda x: -x.policy.chosen_logps, needs="logps"))
    found = diagnose("innerpo", extra={"mine": 0.5})
    assert found.failures == []
    assert term_of(found, "mine").labels == "change (not declared)"


def test_expectations_of_labels():
    def sees(name, **method):
        from innerpo.registry import resolve

        return resolve(TERMS, name, "term").label_expectation(MethodConfig(**method))

    assert sees("inner")
    assert sees("inner", direction="mix")
    assert not sees("inner", direction="pair")
    assert not sees("angle", direction="mix", mix=1.0)
    assert not sees("drift")
    assert sees("drift", direction="mix")
    assert None not in [sees(name) for name in TERMS]


def test_a_base_in_half_precision_is_refused(toy_folder, tmp_path):
    base = Base(build_model().to(torch.bfloat16), build_tokenizer(), "toy", "toy")
    config = replace(default_run("dpo"), data=DataConfig(dataset="embedded:longer", cache_dir=tmp_path))
    with pytest.raises(
        UserError, match=r"checked in float32, the base model is in torch\.bfloat16; load it with dtype"
    ):
        run_checks(config, base=base)


# -- the command line ------------------------------------------------------------------------------------------------


def test_the_verb_prints_a_table_and_its_exit_code_says_whether_all_is_well(toy_folder, tmp_path, monkeypatch, capsys):
    flags = [f"--model.base-model={toy_folder}", f"--data.cache-dir={tmp_path / 'cache'}"]
    assert main(["doctor", "innerpo-supr", *flags]) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("output", "inner", "drift", "margin at the reference", "lowers it"))
    assert "FAIL" not in out
    assert main(["doctor", "ablate", *flags, "--model.dtype=bfloat16"]) == 0  # checked in float32
    capsys.readouterr()
    monkeypatch.setitem(TERMS, "backwards", Term(wrong_sign, needs="logps"))
    assert main(["doctor", "dpo", *flags, "--method.extra", "backwards", "1"]) == 2
    shown = capsys.readouterr()
    assert "FAIL" in shown.out
    error = shown.err.strip().splitlines()[-1]
    assert error.startswith("error: dpo fails 1 checks: backwards: a step down its gradient does not lower it")
    assert main(["doctor", "dop"]) == 2
    assert "dpo" in capsys.readouterr().err


def test_gradient_shares_are_those_of_the_weighted_pairs():
    """Term a moves with pair 0 alone, b with pair 1; pair 0 weighs three times as much."""
    p = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
    terms = {"a": p * torch.tensor([1.0, 0.0]), "b": p * torch.tensor([0.0, 1.0])}
    for weights, share in ((None, 0.5), (torch.tensor([1.5, 0.5]), 0.75)):
        shares = GradientShares(1)
        shares.begin(0, passes=1)
        shares.add(LossOutput(sum(terms.values()), terms, {}, weights), {"a": 1.0, "b": 1.0}, [p])
        assert shares.finish() == pytest.approx({"grad_share/a": share, "grad_share/b": 1.0 - share})
