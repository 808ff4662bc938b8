"""What goes wrong from the command line: one line that names the cause, the right exit code, nothing left behind."""

import functools
import os
import re
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import innerpo
from conftest import make_pairs, run_in
from innerpo.cli.commands import FIRST, TrainCommand
from innerpo.cli.flags import parse
from innerpo.cli.options import options_of
from innerpo.cli.verbs import main
from innerpo.config.run import default_run
from innerpo.errors import FIELDS
from source_helpers import BLUE, GOOD, GREEN, USER, write_jsonl

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _nothing_from_outside(monkeypatch):
    monkeypatch.delenv("INNERPO_GENIES_DIR", raising=False)
    monkeypatch.delenv("INNERPO_ETHICS_DIR", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def one_error(err, *says):
    """The last of the lines is the error, it is the only one, and it says this."""
    lines = [line for line in err.splitlines() if line.strip()]
    assert [line for line in lines if line.startswith("error:")] == lines[-1:], err
    assert "Traceback" not in err
    for part in says:
        assert part in lines[-1], lines[-1]
    return lines


def below(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()} if folder.exists() else {}


@pytest.fixture
def fails(capsys, tmp_path, toy_folder):
    """Run `train METHOD` on toy data with other flags; demand the error, and an output folder as it was before."""

    def run(*flags, says, code=2, method="dpo", early=True, out=None, data=None):
        out = out or tmp_path / "out"
        before, there = below(out), out.exists()
        given = {
            "--model.base-model": toy_folder,
            "--data.dataset": data or toy_data(tmp_path),
            "--data.cache-dir": tmp_path / "cache",
            "--output-dir": out,
        }
        given |= dict(flag.split("=", 1) for flag in flags if "=" in flag)
        words = [f"{k}={v}" for k, v in given.items()] + [flag for flag in flags if "=" not in flag]
        capsys.readouterr()
        assert main(["train", method, "--eval.skip", *words]) == code
        lines = one_error(capsys.readouterr().err, *says)
        assert len(lines) == 1 or not early, lines
        assert below(out) == before
        assert out.exists() == there

    return run


@pytest.fixture
def toy_name(tmp_path, toy_folder):
    """Name of the folder of `train dpo` on toy data, as `fails` runs it."""
    config = default_run("dpo")
    data, model = (
        replace(config.data, dataset=str(tmp_path / "toy.jsonl")),
        replace(config.model, base_model=str(toy_folder)),
    )
    return replace(config, data=data, model=model).run_name


def toy_data(folder):
    rows = [{"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected, "split": "train"} for p in make_pairs(8)]
    return write_jsonl(folder / "toy.jsonl", rows)


# -- flags ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("--training.lr=nan", ["--training.lr must be a finite number, got nan"]),
        ("--training.lr=inf", ["--training.lr must be a finite number, got inf"]),
        ("--training.lr=-1", ["--training.lr must not be negative, got -1.0"]),
        ("--method.beta=nan", ["--method.beta must be a finite number"]),
        ("--method.transform=supra", ["transform", "'supra'", "did you mean 'supr'"]),
        ("--data.batch-size=0", ["--data.batch_size must be at least 1, got 0"]),
        ("--training.fsdp=full_shard", ["FSDP needs processes with a GPU each", "accelerate launch --use_fsdp"]),
        ("--training.fsdp=whole_shard", ["transformers refuses the training options", "whole_shard"]),
        ("--preset=dmeo", ["unknown preset 'dmeo'", "'demo'"]),
        ("--config=none.yaml", ["cannot read config file none.yaml"]),
    ],
)
def test_a_wrong_flag(fails, flag, says):
    fails(flag, says=says)


def test_processes_that_do_not_know_of_each_other(fails, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    fails(says=["2 processes were started", "ACCELERATE_USE_CPU=true"])


def test_fsdp_asked_of_the_launcher(fails, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    fails(says=["FSDP needs processes with a GPU each"])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("", "innerpo needs a verb: train, eval, data, "),
        ("trian", "there is no verb 'trian'; did you mean 'train'?\n"),
        ("fnord", "there is no verb 'fnord'; the verbs are train, eval, data, "),
        ("--verison", "there is no option '--verison'; did you mean '--version'?\n"),
        ("train", "innerpo train needs a method as its first word: innerpo, dpo, "),
        ("train --training.lr=1 dpo", "innerpo train needs a method as its first word: innerpo, dpo, "),
        ("train innerpoo", "there is no method 'innerpoo'; did you mean 'innerpo'?\n"),
        ("train fnord", "there is no method 'fnord'; innerpo train --help lists them\n"),
        ("doctor dop", "there is no method 'dop'; did you mean 'dpop'?\n"),
        ("train dpo --training.lrr=1", "there is no option --training.lrr; did you mean '--training.lr'?\n"),
        ("train dpo --lr 1", "there is no option --lr; did you mean '--training.lr'?\n"),
        ("train dpo --zzz", "there is no option --zzz; innerpo train dpo --help-all lists them\n"),
        ("train dpo -x", "there is no option -x; innerpo train dpo --help-all lists them\n"),
        ("train dpo --data.layout=foo", "--data.layout is one of auto, one_row, packed or concatenated, not 'foo'\n"),
        (
            "train dpo --method.remove len",
            "--method.remove is one of length or logprob, not 'len'; did you",
        ),
        ("train dpo --training.lr=fast", "--training.lr takes a number, not 'fast'\n"),
        ("train dpo --training.max_steps 1e3", "--training.max_steps takes a whole number, not '1e3'\n"),
        ("train dpo --training.lr", "--training.lr needs a value (a number)\n"),
        ("train dpo --training.lr --eval.skip", "--training.lr needs a value (a number)\n"),
        ("train dpo --eval.format", "--eval.format needs a value: parquet, jsonl\n"),
        (
            "train dpo --training.resume=1",
            "--training.resume is a switch: it takes no value, or true or false, not",
        ),
        ("train dpo --method.extra mine", "--method.extra takes pairs of a name and a number, not 'mine'\n"),
        ("train dpo --method.extra mine high", "--method.extra takes a number, not 'high'\n"),
        ("train dpo math", "innerpo train dpo has no place for the word 'math'; an option begins with --\n"),
        ("eval", "innerpo eval needs RUN (Folder of a run or of a peft adapter)\n"),
        ("data", "innerpo data needs NAME (GENIES name, ethics:justice, embedded:NAME, owner/name or a file)\n"),
        ("data math more", "innerpo data has no place for the word 'more'; an option begins with --\n"),
    ],
)
def test_a_wrong_word_gets_one_sentence(capsys, words, sentence):
    assert main(words.split()) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"error: {sentence}")
    assert shown.err.count("\n") == 1


# -- words that are right ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["--training.resume"], True),
        (["--training.resume=true"], True),
        (["--training.resume=False"], False),
        (["--training.no_resume"], False),
        (["--training.no-resume"], False),
        (["--training.report-to", "tensorboard", "wandb"], ("tensorboard", "wandb")),
        (["--training.report_to=wandb"], ("wandb",)),
        (["--training.report_to"], ()),
        (["--method.extra", "inner", "0.5", "drift", "-1"], {"inner": 0.5, "drift": -1.0}),
        (["--method.extra=inner", "0.5"], {"inner": 0.5}),
        (["--eval.steer", "-2"], -2.0),
        (["--training.lr=-0"], 0.0),
        (["--model.revision", "None"], None),
        (["--data.cache-dir=a=b"], Path("a=b")),
    ],
)
def test_words_reach_their_field(words, value):
    name = words[0][2:].partition("=")[0].replace("-", "_").replace(".no_", ".")
    command = parse(TrainCommand, words, "innerpo train innerpo", TrainCommand(default_run("innerpo")))
    assert functools.reduce(getattr, name.split("."), command.run) == value


def test_the_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"innerpo {innerpo.__version__}\n"


# -- data ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], ["bad.jsonl", "has no rows"]),
        ([GOOD, {"prompt": "a", "chosen": "b"}], ["bad.jsonl line 2", "no column 'rejected'"]),
        ([GOOD | {"chosen": ""}], ["bad.jsonl line 1", "chosen is empty"]),
        ([GOOD, GOOD | {"rejected": " \n"}], ["bad.jsonl line 2", "rejected is empty"]),
        ([GOOD | {"rejected": GOOD["chosen"]}], ["bad.jsonl line 1", "identical"]),
        ([GOOD, "{"], ["bad.jsonl line 2", "not JSON"]),
    ],
)
def test_a_fault_in_the_data(fails, tmp_path, rows, says):
    fails(data=write_jsonl(tmp_path / "bad.jsonl", rows), says=says)


def test_pairs_that_are_identical_after_the_cut_leave_nothing_to_train_on(fails, tmp_path):
    row = {"prompt": "Q", "chosen": " the cat sat", "rejected": " the cat ran", "split": "train"}
    data = write_jsonl(tmp_path / "cut.jsonl", [row])
    fails("--data.max-response-tokens=1", data=data, says=["cut.jsonl", "no pair left"], early=False)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("mth", ["'mth'", "'math'"]),
        ("genies:truthful_qq", ["truthful_qq", "'truthful_qa'"]),
        ("embedded:compar", ["compar", "'compare'"]),
        ("ethics:justise", ["justise", "'justice'"]),
        ("./nothing.jsonl", ["no such file ./nothing.jsonl"]),
        ("embeded:compare", ["'embeded'", "'embedded'"]),
    ],
)
def test_an_unknown_data_set_names_the_near_matches(fails, name, says):
    fails(data=name, says=says)


def test_chat_data_need_a_chat_template(fails, tmp_path, toy_folder):
    plain = tmp_path / "plain"
    shutil.copytree(toy_folder, plain)
    (plain / "chat_template.jinja").unlink()
    data = write_jsonl(tmp_path / "chat.jsonl", [{"chosen": [USER, BLUE], "rejected": [USER, GREEN], "split": "train"}])
    fails(f"--model.base-model={plain}", data=data, says=[str(plain), "no chat template", "plain text"], early=False)


# -- model and layers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["owner/no-such-model", "./no-such-folder"])
def test_an_unknown_base_model(fails, name):
    fails(f"--model.base-model={name}", says=[f"cannot load the base model '{name}'", "smollm2-135m"], early=False)


@pytest.mark.parametrize(
    ("layers", "says"),
    [
        ("9", ["there is no layer 9", "blocks 0 to 3"]),
        ("-5", ["there is no layer -5", "-4 to -1"]),
        ("middle", ["'middle' is not a number"]),
        ("1.5", ["1.5", "between 0 and 1"]),
        ("range(3,3)", ["names no layer", "blocks 0 to 3"]),
    ],
)
def test_an_unknown_layer_names_those_there_are(fails, layers, says):
    fails(f"--method.layers={layers}", method="innerpo", says=[f"method.layers='{layers}'", *says], early=False)


def test_modules_that_the_model_has_not(fails):
    fails("--model.target-modules=w_pack", says=["'w_pack'", "q_proj", "v_proj"], early=False)


# -- the machine ---------------------------------------------------------------------------------------------------


def test_an_output_path_beneath_a_file(fails, tmp_path):
    (tmp_path / "file").write_text("in the way")
    fails(out=tmp_path / "file" / "out", code=3, says=["cannot write", str(tmp_path / "file"), "Not a directory"])
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_file_in_place_of_the_run_folder(fails, tmp_path, toy_name):
    out = tmp_path / "out"
    out.mkdir()
    (out / toy_name).write_text("in the way")
    fails(code=3, says=["cannot write", str(out / toy_name), "File exists"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_leave_to_write(fails, tmp_path):
    out = tmp_path / "out"
    out.mkdir(mode=0o500)
    fails(code=3, says=["cannot write", str(out), "Permission denied"])


def test_a_cache_that_cannot_be_written(fails, tmp_path):
    (tmp_path / "file").write_text("in the way")
    flag = f"--data.cache-dir={tmp_path / 'file' / 'cache'}"
    fails(flag, code=3, says=["cannot write", str(tmp_path / "file"), "Not a directory"], early=False)


# -- the cache and earlier runs ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory, toy_folder):
    """A finished run of one step with its cache: (folder of outputs, cache, data)."""
    folder = tmp_path_factory.mktemp("finished")
    data, out, cache = toy_data(folder), folder / "out", folder / "cache"
    words = [f"--model.base-model={toy_folder}", f"--data.dataset={data}", f"--data.cache-dir={cache}"]
    assert main(["train", "innerpo", "--eval.skip", "--training.max-steps=1", f"--output-dir={out}", *words]) == 0
    return out, cache, data


def halve(content):
    return content[: len(content) // 2]


def flip_a_bit(content):
    return content[:-1] + bytes([content[-1] ^ 1])


def empty(content):
    return b""


@pytest.mark.parametrize("damage", [halve, flip_a_bit, empty])
@pytest.mark.parametrize("kind", ["logps", "states", "tokens"])
def test_a_corrupt_cache_file_is_named_and_not_believed(fails, finished, tmp_path, kind, damage):
    _, cache, data = finished
    shutil.copytree(cache, tmp_path / "cache")
    (path,) = (tmp_path / "cache").rglob(f"{kind}*.safetensors")
    path.write_bytes(damage(path.read_bytes()))
    says = [f"cache file {path} is corrupt", "delete it and run again"]
    fails("--training.max-steps=1", method="innerpo", data=data, says=says, early=False)


def test_the_advice_on_a_corrupt_cache_file_works(finished, tmp_path, toy_folder, capsys):
    out, cache, data = finished
    shutil.copytree(cache, tmp_path / "cache")
    (path,) = (tmp_path / "cache").rglob("states*.safetensors")
    sound = path.read_bytes()
    path.unlink()
    words = [f"--model.base-model={toy_folder}", f"--data.dataset={data}", f"--data.cache-dir={tmp_path / 'cache'}"]
    words += ["--eval.skip", "--training.max-steps=1", f"--output-dir={tmp_path / 'out'}"]
    assert main(["train", "innerpo", *words]) == 0
    assert path.read_bytes() == sound
    again, first = (run_in(f, "innerpo-none_toy_seed1") / "adapter_model.safetensors" for f in (tmp_path / "out", out))
    assert again.read_bytes() == first.read_bytes()


def test_a_folder_that_holds_a_run_says_what_can_be_done(fails, finished):
    out, _, data = finished
    name = run_in(out, "innerpo-none_toy_seed1").name
    says = [f"{name} already holds a run", "--training.resume", "--training.overwrite"]
    fails("--training.max-steps=1", method="innerpo", data=data, out=out, says=says)


def test_resuming_in_a_folder_that_holds_another_config(fails, finished, tmp_path):
    first, _, data = finished
    out = tmp_path / "outputs"
    shutil.copytree(first, out)
    run = run_in(out, "innerpo-none_toy_seed1")
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(re.sub("run_id: .*", "run_id: 0123456789ab", text))
    says = [f"{run.name} holds a run with another config (id 0123456789ab", "cannot be", "--training.overwrite"]
    fails("--training.max-steps=1", "--training.resume", method="innerpo", data=data, out=out, says=says)


@pytest.mark.parametrize("flag", ["--training.resume", "--training.log-steps=5"])
def test_a_folder_that_is_no_run_is_left_alone(fails, tmp_path, toy_name, flag):
    (tmp_path / "out" / toy_name).mkdir(parents=True)
    (tmp_path / "out" / toy_name / "thesis.tex").write_text("years of work")
    fails(flag, says=["is not a run of innerpo", "--output_dir"])


def test_overwrite_does_not_delete_what_is_no_run(fails, tmp_path, toy_name):
    (tmp_path / "out" / toy_name).mkdir(parents=True)
    (tmp_path / "out" / toy_name / "thesis.tex").write_text("years of work")
    fails("--training.overwrite", says=["is not a run of innerpo", "--output_dir"])


# -- eval ----------------------------------------------------------------------------------------------------------


def test_eval_of_what_is_no_run(capsys, tmp_path):
    (tmp_path / "notes.txt").write_text("no run")
    for folder, says in ((tmp_path, "holds no adapter_config.json"), (tmp_path / "none", "there is no folder")):
        assert main(["eval", str(folder)]) == 2
        assert len(one_error(capsys.readouterr().err, str(folder), says)) == 1
    assert below(tmp_path) == {Path("notes.txt"): b"no run"}


@pytest.mark.parametrize(
    ("name", "damage", "says"),
    [
        ("adapter_model.safetensors", halve, "does not fit the base model"),
        ("directions.safetensors", halve, "not a directions file"),
        ("config.yaml", lambda content: b"metod: {}\n", "did you mean 'method'"),
        ("adapter_config.json", None, "holds no adapter_config.json"),
    ],
)
def test_eval_of_a_damaged_run(capsys, finished, tmp_path, name, damage, says):
    run, both = tmp_path / "run", tmp_path / "both"
    shutil.copytree(run_in(finished[0], "innerpo-none_toy_seed1"), run)
    if damage is None:
        (run / name).unlink()
    else:
        (run / name).write_bytes(damage((run / name).read_bytes()))
    before = below(run)
    both.mkdir()
    for split in ("train", "test"):
        write_jsonl(both / f"{split}.jsonl", [GOOD])
    words = [f"--eval.{column}-dataset={both}" for column in ("train", "oos", "rnd")]
    capsys.readouterr()
    assert main(["eval", str(run), *words]) == 2
    one_error(capsys.readouterr().err, str(run), says)
    assert below(run) == before


# -- as a person meets it: a process of its own --------------------------------------------------------------------


def run_process(*words, **options):
    return subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=120, **options)


@pytest.mark.parametrize(
    ("flag", "says"),
    [("--training.lr=nan", "training.lr must be a finite number"), ("--data.dataset={}/bad.jsonl", "has no rows")],
)
def test_an_error_in_a_process_of_its_own_is_one_line(tmp_path, flag, says):
    (tmp_path / "bad.jsonl").write_text("")
    done = run_process("cli.py", "train", "dpo", flag.format(tmp_path), f"--output-dir={tmp_path / 'out'}")
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(one_error(done.stderr, says)) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--help"], 0),
        (["train", "--help"], 0),
        (["train", "dpo", "--help"], 0),
        (["train", "dpo", "--training.lrr=1"], 2),
        (["train", "dpo", "--training.lr=nan"], 2),
    ],
)
def test_help_and_wrong_flags_answer_at_once(words, code):
    # Processor time, not the clock's: other tests run beside this one. A start waits for nothing but the processor.
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = run_process("-X", "importtime", "-m", "innerpo", *words)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == code, done.stderr
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "tyro" in imported  # the list is the list of imports
    assert not imported & {"torch", "transformers", "peft", "datasets", "pyarrow", "scipy"}
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.5


HELP = {
    "train dpo --help": ["--training.lr FLOAT", "Peak learning rate.", "--data.dataset STR", "--help-all"],
    "train innerpo --help": ["--method.alpha FLOAT", "--output_dir PATH"],
    "train --help": ["dpo", "innerpo", "NAME-TRANSFORM"],
    "eval --help": ["RUN", "--eval.oos_dataset", "--help-all"],
    "eval --help-all": ["--eval.max_prompts INT", "--model.attention", "--data.layout"],
    "data -h": ["NAME"],
    "doctor innerpo-supr --help": ["--seed INT", "--method.transform", "supr"],
    "--help": ["train", "examples"],
}


@pytest.mark.parametrize("words", HELP)
def test_help_begins_with_what_a_newcomer_needs(words, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as stop:
        main(words.split())
    assert not stop.value.code
    shown = capsys.readouterr()
    assert shown.err == ""
    assert all(part in shown.out for part in HELP[words]), shown.out
    if words.endswith("dpo --help"):
        assert "--method.layers" not in shown.out  # dpo reads no hidden states
        assert "--training.fsdp" not in shown.out


def test_all_of_help_describes_every_option(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        main(["train", "dpo", "--help-all"])
    shown = capsys.readouterr().out
    options = options_of(TrainCommand)
    assert {o.name for o in options} == FIELDS | {"config", "preset", "dry_run"}
    for option in options:
        assert option.flag in shown
        assert option.help, option.name


@pytest.mark.parametrize("record", FIRST, ids=lambda r: r.__name__)
def test_what_help_begins_with_are_options(record):
    assert set(FIRST[record]) <= {o.name for o in options_of(record)}


def test_completion_knows_verbs_methods_options_and_choices(tmp_path, capsys):
    script = tmp_path / "not" / "there" / "innerpo.bash"
    with pytest.raises(SystemExit) as stop:
        main(["--tyro-write-completion", "bash", str(script)])
    assert not stop.value.code
    ask = """source {script}
    try() {{ COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _tyro_innerpo; echo "${{COMPREPLY[@]}}"; }}
    try innerpo tr; try innerpo doctor sf; try innerpo train dpo --training.lr
    try innerpo train dpo --data.layout one; try innerpo generate --max; try innerpo bridge ex
    try innerpo tune dpo --tri; try innerpo comb; try innerpo table --str"""
    done = subprocess.run(["bash", "-c", ask.format(script=script)], capture_output=True, text=True, check=True)
    found = [
        "train",
        "sft",
        "--training.lr",
        "one_row",
        "--max_new_tokens",
        "export",
        "--trials",
        "combine",
        "--strengths",
    ]
    assert done.stdout.splitlines() == found
    assert main(["--tyro-write-completion", "bash"]) == 2
    assert "needs a shell and the file to write" in capsys.readouterr().err
    assert main(["--tyro-print-completion", "powershell"]) == 2
    assert capsys.readouterr().err == "error: --tyro-print-completion needs a shell: bash, zsh, tcsh, fish\n"
