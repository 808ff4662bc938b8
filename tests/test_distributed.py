"""Two gloo processes on one machine train the adapter that one process trains with the same global batch."""

import os
import subprocess
import sys
from pathlib import Path

from safetensors.torch import load_file

ROOT = Path(__file__).parents[1]


def launch(processes, toy_folder, tmp_path):
    words = [
        *("train", "innerpo", f"--model.base_model={toy_folder}", "--model.lora_r=4", "--method.layers=1,2"),
        *("--data.dataset=embedded:longer", f"--data.batch_size={8 // processes}", "--data.max_train_prompts=48"),
        *(f"--data.cache_dir={tmp_path / 'cache'}", "--training.lr=5e-3", "--training.save_steps=3", "--eval.skip"),
        f"--output_dir={tmp_path / str(processes)}",
    ]
    run = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--master_port", "29617"]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*run, "cli.py", *words], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr.count("model: ") == 1  # one of them speaks
    (folder,) = (tmp_path / str(processes)).iterdir()
    assert not (folder / "checkpoints").exists()
    return load_file(folder / "adapter_model.safetensors")


def test_two_processes_train_what_one_does(toy_folder, tmp_path):
    one, two = (launch(n, toy_folder, tmp_path) for n in (1, 2))
    assert one.keys() == two.keys()
    assert max(((two[n] - one[n]).norm() / one[n].norm()).item() for n in one) < 1e-3
    assert max(one[n].abs().max().item() for n in one if "lora_B" in n) > 1e-3
