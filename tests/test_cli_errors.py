"""What goes wrong from the command line: one line that names the cause, the right exit code, nothing left behind."""

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import make_pairs
from innerpo.cli.verbs import main
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


def toy_data(folder):
    rows = [{"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected, "split": "train"} for p in make_pairs(8)]
    return write_jsonl(folder / "toy.jsonl", rows)


# -- flags ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("--training.lr=nan", ["training.lr must be a finite number, got nan"]),
        ("--training.lr=inf", ["training.lr must be a finite number, got inf"]),
        ("--training.lr=-1", ["training.lr must not be negative, got -1.0"]),
        ("--training.lr=fast", ["--training.lr", "fast"]),
        ("--method.beta=nan", ["method.beta must be a finite number"]),
        ("--training.lrr=1", ["--training.lrr", "--training.lr "]),
        ("--method.pool=men", ["'men'", "--method.pool", "'mean'"]),
        ("--method.transform=supra", ["transform", "'supra'", "did you mean 'supr'"]),
        ("--data.batch-size=0", ["data.batch_size must be at least 1, got 0"]),
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
    ("argv", "says"),
    [
        (["trian"], ["trian", "train, eval, data"]),
        (["train", "dop"], ["dop", "dpo, innerpo"]),
        (["train"], ["dpo", "innerpo"]),
        (["eval"], ["PATH"]),
        (["data"], ["STR"]),
        ([], ["train, eval, data"]),
    ],
)
def test_a_wrong_verb_or_none(capsys, argv, says):
    assert main(argv) == 2
    assert len(one_error(capsys.readouterr().err, *says)) == 1


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


def test_a_file_in_place_of_the_run_folder(fails, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "dpo_toy_seed1").write_text("in the way")
    fails(code=3, says=["cannot write", str(out / "dpo_toy_seed1"), "File exists"])


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
    again, first = (f / "innerpo-none_toy_seed1" / "adapter_model.safetensors" for f in (tmp_path / "out", out))
    assert again.read_bytes() == first.read_bytes()


def test_a_folder_that_holds_a_run_says_what_can_be_done(fails, finished):
    out, _, data = finished
    says = ["innerpo-none_toy_seed1 already holds a run", "--training.resume", "--training.overwrite"]
    fails("--training.max-steps=1", method="innerpo", data=data, out=out, says=says)


def test_resuming_with_another_config(fails, finished):
    out, _, data = finished
    says = ["innerpo-none_toy_seed1 holds a run with another config", "cannot be resumed", "--training.overwrite"]
    flags = ["--training.max-steps=1", "--training.lr=1e-3", "--training.resume"]
    fails(*flags, method="innerpo", data=data, out=out, says=says)


@pytest.mark.parametrize("flag", ["--training.resume", "--training.log-steps=5"])
def test_a_folder_that_is_no_run_is_left_alone(fails, tmp_path, flag):
    (tmp_path / "out" / "dpo_toy_seed1").mkdir(parents=True)
    (tmp_path / "out" / "dpo_toy_seed1" / "thesis.tex").write_text("years of work")
    fails(flag, says=["is not a run of innerpo", "--output-dir"])


def test_overwrite_does_not_delete_what_is_no_run(fails, tmp_path):
    (tmp_path / "out" / "dpo_toy_seed1").mkdir(parents=True)
    (tmp_path / "out" / "dpo_toy_seed1" / "thesis.tex").write_text("years of work")
    fails("--training.overwrite", says=["is not a run of innerpo", "--output-dir"])


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
    shutil.copytree(finished[0] / "innerpo-none_toy_seed1", run)
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


def test_help_describes_every_option():
    done = run_process("-m", "innerpo", "train", "dpo", "--help", env=os.environ | {"COLUMNS": "200"})
    assert done.stderr == ""
    for words in ("--training.lr FLOAT", "Peak learning rate.", "--data.dataset STR", "--eval.max-prompts INT"):
        assert words in done.stdout
