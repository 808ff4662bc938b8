"""Which config fields change a run, its scores, both or nothing; the names of runs that follow from it."""

import dataclasses
import typing
from dataclasses import replace
from pathlib import Path

import pytest

from innerpo.config.identity import run_id, scores_id, settings
from innerpo.config.method import MethodConfig
from innerpo.config.run import RunConfig, default_run
from innerpo.config.yaml import nested, overlay
from innerpo.registry import METHODS

OTHER = {
    "data.dataset": "code",
    "method.cue": "top",
    "method.extra": {"inner": 1.0},
    "method.gradient": "projgrad",
    "method.layers": "2",
    "method.direction": "lda",
    "method.name": "mine",
    "model.adapt_layers": "2",
    "model.lora_dropout": 0.1,
    "method.output": "ipo",
    "method.offset": "length",
    "method.remove": ["length"],
    "method.reweight": "probe",
    "method.transform": "svd",
    "training.report_to": ["tensorboard"],
    "training.tuned": {"trials": 20.0},
    "eval.capability": "dpo",
    "eval.sets": ["test"],
    "eval.strengths": [0.5, 1.0],
    "eval.strength_sets": ["test"],
}
"""Second values of fields whose type does not tell them, or for which only some are valid."""

NOTHING = {
    *("model.attention", "model.compile", "model.threads"),
    *("data.genies_dir", "data.ethics_dir", "data.cache_dir", "data.token_cache_gb", "data.trunk_cache_gb"),
    *("data.layout", "data.micro_batch_tokens"),
    *("training.gradient_checkpointing", "training.resume", "training.overwrite", "training.save_steps"),
    *("training.log_steps", "training.grad_share_steps", "training.report_to", "training.fsdp", "training.tuned"),
    "training.report_group",
    *("eval.batch_size", "eval.format", "eval.skip", "eval.strengths", "eval.strength_sets"),
    *("eval.capability", "output_dir"),
}
SCORES_ONLY = {
    "eval.suite",
    "eval.sets",
    "eval.negatives",
    "eval.train_dataset",
    "eval.oos_dataset",
    "eval.rnd_dataset",
    "eval.ref_model",
    "eval.max_prompts",
    "eval.steer",
}
BOTH = {
    *("model.base_model", "model.revision", "model.dtype", "model.load_in_4bit", "model.trust_remote_code"),
    *("data.dataset", "data.max_prompt_tokens", "data.max_response_tokens", "data.max_train_prompts"),
    *("data.on_bad_row", "data.seed"),
}

DEFAULT = default_run("innerpo")
NAMES = [s.name for s in settings(DEFAULT)]


def hint_of(name):
    record = RunConfig
    for part in name.split("."):
        record = typing.get_type_hints(record)[part]
    return record


def second_value(name, value):
    """Another valid value of a field: from the table, or by its type."""
    if name in OTHER:
        return OTHER[name]
    hint = hint_of(name)
    if typing.get_origin(hint) is typing.Literal:
        return next(choice for choice in typing.get_args(hint) if choice != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value / 2 or 1.0 if isinstance(value, float) else value + 1
    return "other"


def changed(name):
    """The default config with another value in one field."""
    value = {s.name: s.value for s in settings(DEFAULT)}[name]
    return overlay(DEFAULT, nested({name: second_value(name, value)}), "test")


@pytest.mark.parametrize("name", NAMES)
def test_every_field_changes_what_it_says(name):
    config = changed(name)
    assert config != DEFAULT
    changes_run = name not in NOTHING | SCORES_ONLY
    assert (run_id(config) != run_id(DEFAULT)) == changes_run
    assert (config.run_name != DEFAULT.run_name) == changes_run
    assert (config.run_dir.name != DEFAULT.run_dir.name) == changes_run
    assert (scores_id(config) != scores_id(DEFAULT)) == (name in SCORES_ONLY | BOTH)


def test_the_tables_name_fields_that_exist():
    assert NOTHING | SCORES_ONLY | BOTH | set(OTHER) <= set(NAMES)
    assert not NOTHING & SCORES_ONLY
    assert not (NOTHING | SCORES_ONLY) & BOTH


def test_ids_and_names_are_unlike_one_another():
    configs = [changed(name) for name in NAMES if name not in NOTHING | SCORES_ONLY]
    assert len({run_id(c) for c in configs}) == len({c.run_name for c in configs}) == len(configs)


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [*METHODS, "innerpo-supr", "projgrad"])
def test_a_run_with_its_methods_defaults_has_a_plain_name(method):
    config = default_run(method)
    label = method if not config.method.reads_states or "-supr" in method else f"{method}-{config.method.transform}"
    assert config.run_name == f"{label}_math_seed1"
    assert config.run_dir == Path("outputs") / config.run_name
    config = replace(config, data=replace(config.data, dataset="embedded:compare"))
    config = replace(config, training=replace(config.training, seed=3))
    assert config.run_name == f"{label}_embedded-compare_seed3"


def test_any_other_has_the_beginning_of_its_id_behind_it():
    slow, fast = (replace(DEFAULT, training=replace(DEFAULT.training, lr=lr)) for lr in (1e-5, 1e-4))
    assert slow.run_name == f"innerpo-none_math_seed1+{run_id(slow)[:8]}"
    assert fast.run_name == f"innerpo-none_math_seed1+{run_id(fast)[:8]}"
    assert slow.run_name != fast.run_name
    mine = RunConfig(method=MethodConfig(name="mine"))
    assert mine.run_name == f"mine-none_math_seed1+{run_id(mine)[:8]}"


@pytest.mark.parametrize(
    ("dataset", "shown"),
    [
        ("some/my pairs.jsonl", "my-pairs"),
        ("other/my pairs.jsonl", "my-pairs"),
        ("me/math", "math"),
        ("math.csv", "math"),
    ],
)
def test_a_data_set_that_its_short_name_does_not_tell_has_the_id(dataset, shown):
    config = replace(DEFAULT, data=replace(DEFAULT.data, dataset=dataset))
    assert config.run_name == f"innerpo-none_{shown}_seed1+{run_id(config)[:8]}"


def test_the_name_says_the_method_even_with_every_inner_weight_at_zero():
    zero = replace(DEFAULT, method=replace(DEFAULT.method, alpha=0.0, gamma=0.0))
    assert zero.run_name.startswith("innerpo-none_math_seed1+")


# -- new fields --------------------------------------------------------------------------------------------------------


def test_a_new_field_changes_what_its_section_changes():
    @dataclasses.dataclass(frozen=True)
    class Section:
        new: int = 0

    @dataclasses.dataclass(frozen=True)
    class Config:
        training: Section = dataclasses.field(default_factory=Section)
        eval: Section = dataclasses.field(
            default_factory=Section, metadata=RunConfig.__dataclass_fields__["eval"].metadata
        )

    before = Config()
    trained, scored = Config(training=Section(1)), Config(eval=Section(1))
    assert run_id(trained) != run_id(before) == run_id(scored)
    assert scores_id(scored) != scores_id(before) == scores_id(trained)
