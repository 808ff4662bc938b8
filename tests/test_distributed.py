"""Two gloo processes on one machine train the adapter that one process trains with the same global batch."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from peft import PeftModel
from safetensors.torch import load_file

from conftest import build_model
from innerpo.cli.verbs import main
from innerpo.config.run import default_run
from innerpo.errors import UserError
from innerpo.training.arguments import check_processes

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs" / "accelerate"


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


@pytest.fixture(scope="module")
def launch(toy_folder, tmp_path_factory):
    """Train in some processes of a program; return the run's folder."""
    root = tmp_path_factory.mktemp("distributed")

    def run(name, processes, *flags, program="cli.py", config=None):
        words = [
            *("train", "innerpo", f"--model.base_model={toy_folder}", "--model.lora_r=4", "--method.layers=1,2"),
            "--model.dtype=float32",  # in bfloat16 the order of a sum is a difference
            *("--data.dataset=embedded:longer", f"--data.batch_size={8 // processes}", "--data.max_train_prompts=48"),
            *(f"--data.cache_dir={root / 'cache'}", "--training.lr=5e-3", "--training.save_steps=3", "--eval.skip"),
            *(f"--output_dir={root / name}", *flags),
        ]
        several = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--master_port", free_port()]
        if config is not None:
            several = ["-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / config)]
            several += ["--num_processes", str(processes), "--main_process_port", free_port()]
        environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, *several, program, *words], cwd=ROOT, capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stderr.count("model: ") == 1  # one of them speaks
        assert ("the weights are sharded" in done.stderr) == (program != "cli.py")
        (folder,) = (root / name).iterdir()
        assert not (folder / "checkpoints").exists()
        return folder

    return run


@pytest.fixture(scope="module")
def adapter_of_one(launch):
    return load_file(launch("one", 1) / "adapter_model.safetensors")


def assert_same(one, two):
    assert one.keys() == two.keys()
    assert max(((two[n] - one[n]).norm() / one[n].norm()).item() for n in one) < 1e-3
    assert max(one[n].abs().max().item() for n in one if "lora_B" in n) > 1e-3


def test_two_processes_train_what_one_does(launch, adapter_of_one):
    assert_same(adapter_of_one, load_file(launch("two", 2) / "adapter_model.safetensors"))


@pytest.mark.slow
def test_two_processes_with_half_the_weights_each_train_what_one_does(launch, adapter_of_one):
    folder = launch("fsdp", 2, "--training.fsdp=full_shard", program="tests/fsdp_on_cpu.py")
    assert_same(adapter_of_one, load_file(folder / "adapter_model.safetensors"))
    loaded = PeftModel.from_pretrained(build_model(), folder).state_dict()
    for name, saved in adapter_of_one.items():
        assert loaded[name.replace(".weight", ".default.weight")].shape == saved.shape
    assert main(["eval", str(folder), "--eval.max_prompts=4"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize(("config", "program"), [("ddp.yaml", "cli.py"), ("fsdp2.yaml", "tests/fsdp_on_cpu.py")])
def test_accelerate_launch_with_a_config_of_the_repository_trains_what_one_process_does(
    config, program, launch, adapter_of_one
):
    folder = launch(Path(config).stem, 2, program=program, config=config)
    assert_same(adapter_of_one, load_file(folder / "adapter_model.safetensors"))


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_reads_the_configs_of_the_repository(path):
    """Every key is one that accelerate's launcher has: its reader drops none and it would ignore others silently."""
    config = load_config_from_file(str(path))
    options = vars(launch_command_parser().parse_args(["script.py"]))
    assert not [name for name in (*config.fsdp_config, *config.deepspeed_config) if name not in options]
    assert config.mixed_precision == "no"  # training.arguments refuses any other
    assert config.num_processes == 2
    stem = path.stem.partition("_")[0]
    kinds = {"ddp": "MULTI_GPU", "fsdp2": "FSDP", "deepspeed": "DEEPSPEED"}
    assert str(config.distributed_type.value) == kinds[stem]
    assert config.deepspeed_config.get("zero_stage") == (int(path.stem[-1]) if stem == "deepspeed" else None)


def test_mixed_precision_of_accelerate_is_the_trl_trainers_alone(monkeypatch):
    """There the reference is computed in it too; TRL's own launcher configs all have it."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    config = default_run("dpo")
    check_processes(config, mixed=True)
    with pytest.raises(UserError, match="accelerate was started with mixed precision bf16"):
        check_processes(config)
