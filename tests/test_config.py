"""Configs: YAML to typed records, what wins over what, run names and ids."""

from dataclasses import replace
from pathlib import Path

import pytest

import innerpo.run
from innerpo.cli.verbs import main
from innerpo.config.data import DataConfig
from innerpo.config.identity import run_id
from innerpo.config.method import MethodConfig
from innerpo.config.model import ModelConfig
from innerpo.config.run import RunConfig, default_run, to_dict
from innerpo.config.training import TrainingConfig
from innerpo.config.yaml import as_yaml, overlay, preset_dir, preset_path, read_yaml
from innerpo.errors import UserError
from innerpo.experiments.study import study_of
from innerpo.files import cache_root
from innerpo.registry import METHODS
from innerpo.training.arguments import training_arguments


def read(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    return read_yaml(path)


def with_yaml(tmp_path, text):
    return overlay(RunConfig(), read(tmp_path, text), "c.yaml")


@pytest.mark.parametrize(
    ("written", "number"),
    [("1e-5", 1e-5), ("5e-4", 5e-4), ("1E+2", 100.0), ("-1.5e3", -1500.0), (".5e-1", 0.05), ("3", 3), ("0.5", 0.5)],
)
def test_what_looks_like_a_number_is_one(tmp_path, written, number):
    found = read(tmp_path, f"x: {written}")["x"]
    assert found == number
    assert type(found) is type(number)


@pytest.mark.parametrize("written", ["e5", "1e", "1-2", "range(.3,-1)", "0.4,0.6", "1e-5x"])
def test_what_only_resembles_a_number_stays_text(tmp_path, written):
    assert read(tmp_path, f"x: {written}")["x"] == written


def test_yaml_reaches_typed_fields(tmp_path):
    config = with_yaml(
        tmp_path,
        "training: {lr: 1e-5, epochs: 2, max_steps: 1e2, report_to: [tensorboard, trackio], overwrite: true}\n"
        "method: {layers: 3, extra: {inner: 1}}\n"
        "model: {revision: null}\n"
        "output_dir: runs\n",
    )
    t = config.training
    assert (t.lr, t.epochs, t.max_steps, t.report_to, t.overwrite) == (1e-5, 2.0, 100, ("tensorboard", "trackio"), True)
    assert [type(v) for v in (t.epochs, t.max_steps)] == [float, int]
    assert (config.method.layers, config.method.extra, config.model.revision) == ("3", {"inner": 1.0}, None)
    assert config.output_dir.name == "runs"
    assert config.data == DataConfig()
    assert read(tmp_path, "# nothing but a comment\n") == {}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("trainig: {lr: 1}", ["unknown key 'trainig'", "did you mean 'training'"]),
        ("training: {learn: 1}", ["c.yaml.training", "unknown key 'learn'"]),
        ("training: {warmpu: 1}", ["c.yaml.training", "did you mean 'warmup'"]),
        ("training: {lr: fast}", ["c.yaml.training.lr", "'fast' is not a float"]),
        ("training: {lr: true}", ["c.yaml.training.lr", "True is not a float"]),
        ("training: {max_steps: 1.5}", ["c.yaml.training.max_steps", "1.5 is not a int"]),
        ("training: {resume: 1}", ["c.yaml.training.resume", "1 is not a bool"]),
        ("training: 3", ["c.yaml.training must be a mapping", "3"]),
        ("model: {base_model: [a]}", ["c.yaml.model.base_model", "is not a str"]),
        ("method: {pool: men}", ["c.yaml.method.pool", "'men' is not one of mean, last, first_divergence"]),
        ("method: {extra: {inner: high}}", ["c.yaml.method.extra.inner", "'high' is not a float"]),
        ("training: {lr: .nan}", ["training.lr must be a finite number, got nan"]),
        ("- 1", ["must hold a mapping", "list"]),
        ("a: [", ["c.yaml is not valid YAML", "line"]),
    ],
)
def test_a_fault_in_a_file_is_one_line_that_names_it(tmp_path, text, parts):
    with pytest.raises(UserError) as caught:
        with_yaml(tmp_path, text)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"cannot read config file .*none\.yaml: No such file"):
        read_yaml(tmp_path / "none.yaml")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    ("record", "field"),
    [(MethodConfig, "beta"), (MethodConfig, "gamma"), (TrainingConfig, "lr"), (ModelConfig, "lora_alpha")],
)
def test_numbers_must_be_finite(record, field, value):
    with pytest.raises(UserError, match=rf"{field} must be a finite number, got {value}"):
        record(**{field: value})


def test_a_weight_of_an_added_term_must_be_finite_too():
    with pytest.raises(UserError, match=r"method\.extra must be a finite number"):
        MethodConfig(extra={"inner": float("nan")})


@pytest.mark.parametrize(
    ("record", "field", "value"),
    [
        (TrainingConfig, "lr", -1.0),
        (TrainingConfig, "epochs", 0.0),
        (TrainingConfig, "gradient_accumulation", 0),
        (DataConfig, "batch_size", 0),
        (DataConfig, "shuffled_labels", 1.5),
        (ModelConfig, "lora_r", -1),
        (ModelConfig, "lora_dropout", 1.0),
        (MethodConfig, "mix", 1.5),
        (TrainingConfig, "seed", 2**32),
    ],
)
def test_values_out_of_range_are_refused_by_name(record, field, value):
    with pytest.raises(UserError, match=rf"{field} .*{value}"):
        record(**{field: value})


def test_full_fine_tuning_in_float16_is_refused():
    assert ModelConfig(lora_r=0, dtype="bfloat16").lora_r == 0
    with pytest.raises(UserError, match=r"lora_r=0 trains every weight, and float16 cannot hold"):
        ModelConfig(lora_r=0, dtype="float16")


def test_an_optimiser_without_its_package_is_refused_before_any_pass(tmp_path):
    config = default_run("dpo")
    config = replace(config, training=replace(config.training, optim="lomo"), output_dir=tmp_path)
    with pytest.raises(UserError, match=r"transformers refuses the training options: .*lomo"):
        training_arguments(config)


def test_steps_may_stand_in_for_epochs():
    assert TrainingConfig(epochs=0.0, max_steps=3).max_steps == 3


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("preset", sorted(p.stem for p in preset_dir().glob("*.yaml")))
def test_every_preset_loads_for_every_method(method, preset):
    config = overlay(default_run(method), read_yaml(preset_path(preset)), preset)
    assert config.method == default_run(method).method
    assert config != default_run(method)


def test_the_presets_that_the_readme_names_are_there():
    assert {"demo", "dev", "gpu"} <= {p.stem for p in preset_dir().glob("*.yaml")}
    with pytest.raises(UserError, match="unknown preset 'dmeo'; did you mean 'demo'"):
        preset_path("dmeo")


# -- precedence, through the real command line ---------------------------------------------------------------------


@pytest.fixture
def captured(monkeypatch, tmp_path):
    """Run `innerpo train ...` up to the point where training would start; return the config it would train."""

    def run(*args):
        seen = []

        def stop_here(config):
            seen.append(config)
            return innerpo.run.Run(tmp_path, config)

        monkeypatch.setattr(innerpo.run, "train", stop_here)
        assert main(["train", *args]) == 0
        return seen[0]

    return run


def test_command_line_over_file_over_preset_over_default(captured, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("training: {lr: 1e-3, warmup: 0.25}\ndata: {batch_size: 3}\n")
    config = captured("dpo", "--preset=dev", f"--config={path}", "--training.lr=7e-5", "--eval.max-prompts", "9")
    dev = overlay(default_run("dpo"), read_yaml(preset_path("dev")), "dev")
    assert config.training.lr == 7e-5  # in preset, file and flag: the flag
    assert config.data.batch_size == 3  # in preset (4) and file
    assert config.training.warmup == 0.25  # in the file only
    assert config.training.max_steps == dev.training.max_steps == 4  # in the preset only
    assert config.eval.max_prompts == 9  # in preset (8) and flag
    assert config.training.scheduler == "cosine"  # nowhere: the default
    assert config.method == default_run("dpo").method


def test_the_transform_of_the_command_comes_before_that_of_a_file(captured, tmp_path):
    """A run's own config names a transform always: ``none``, where it has none."""
    path = tmp_path / "config.yaml"
    path.write_text(as_yaml(to_dict(default_run("innerpo"))))
    assert captured("innerpo-supr", f"--config={path}").method.transform == "supr"
    assert captured("innerpo", f"--config={path}").method.transform == "none"
    assert captured("innerpo-supr", f"--config={path}", "--method.transform=ether").method.transform == "ether"


@pytest.mark.parametrize(("written", "read_as"), [("on", "on"), ("off", "off"), ("'off'", "off"), ("auto", "auto")])
def test_on_and_off_need_no_quotes(written, read_as, tmp_path):
    """YAML takes them for booleans."""
    values = read(tmp_path, f"model:\n  compile: {written}\n")
    assert overlay(default_run("dpo"), values, "file").model.compile == read_as


def test_a_home_folder_is_that_of_the_user(tmp_path, monkeypatch):
    """``output_dir: ~/runs`` in a file, which no shell has read."""
    monkeypatch.setenv("HOME", str(tmp_path))
    config = overlay(default_run("dpo"), {"output_dir": "~/runs"}, "file")
    assert config.run_dir.parent == tmp_path / "runs"
    assert cache_root(Path("~/cache")) == tmp_path / "cache"
    monkeypatch.setenv("INNERPO_CACHE", "~/mine")
    assert cache_root(None) == tmp_path / "mine"
    study = {"methods": ["dpo"], "datasets": ["embedded:compare"], "output_dir": "~/out", "archive": "~/kept"}
    found = study_of(study | {"other_archives": ["~/other"]}, "study")
    assert [found.output_dir, found.archive, *found.other_archives] == [tmp_path / n for n in ("out", "kept", "other")]


def test_the_order_of_the_flags_does_not_matter(captured, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("training: {lr: 1e-3}")
    first = captured("dpo", "--training.lr=7e-5", "--config", str(path), "--preset", "dev")
    last = captured("dpo", "--preset", "dev", "--config", str(path), "--training.lr=7e-5")
    assert first == last


def test_each_method_starts_from_its_own_defaults(captured):
    assert captured("dpo").method.term_weights() == {"output": 1.0}
    assert captured("innerpo").method.term_weights() == {"output": 1.0, "inner": 0.3, "drift": 0.1}
    assert captured("innerpo", "--method.alpha=0", "--method.gamma=0").method.term_weights() == {"output": 1.0}


def test_underscores_and_hyphens_are_the_same_flag(captured):
    assert captured("dpo", "--training.max_steps=2").training.max_steps == 2
    assert captured("dpo", "--training.max-steps=2").training.max_steps == 2


def test_a_config_of_another_method_is_refused(tmp_path, capsys):
    path = tmp_path / "c.yaml"
    path.write_text("method: {name: innerpo}")
    assert main(["train", "dpo", f"--config={path}"]) == 2
    assert capsys.readouterr().err == "error: the config is of the method 'innerpo', the command is train dpo\n"
    assert main(["train", "dpo", "--method.name=innerpo"]) == 2
    assert "command is train dpo" in capsys.readouterr().err


# -- round trip ----------------------------------------------------------------------------------------------------


def test_a_config_survives_yaml(tmp_path):
    config = default_run("dpo")
    config = replace(
        config,
        method=replace(config.method, extra={"coherence": 0.5}, layers="range(.3,-1)"),
        data=replace(config.data, cache_dir=tmp_path / "cache", dataset="1e-5"),
        training=replace(config.training, lr=1e-5, report_to=("wandb", "trackio")),
        output_dir=tmp_path,
    )
    back = overlay(default_run("innerpo"), read(tmp_path, as_yaml(to_dict(config))), "saved")
    assert back == config
    assert run_id(back) == run_id(config)


@pytest.mark.parametrize(("output", "beta"), [("dpo", -0.1), ("dpo", 0.0), ("simpo", -1.0), ("ipo", 0.0)])
def test_beta_must_be_above_zero_wherever_there_is_an_output_term(output, beta):
    with pytest.raises(UserError, match=rf"method\.beta must be above 0 with output={output}, got {beta}"):
        MethodConfig(output=output, beta=beta)
    assert MethodConfig(output="none", beta=beta).beta == beta
