"""Imports run one way, and the command line starts light."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_import_contract():
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([lint], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 kept, 0 broken" in done.stdout


def test_config_and_cli_import_nothing_heavy():
    heavy = ("torch", "transformers", "datasets", "numpy")
    code = f"import sys, innerpo.cli.verbs; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_run_begins_without_what_only_its_end_needs():
    late = ("scipy.stats", "altair", "gguf", "trl", "matplotlib")
    code = f"import sys, innerpo.run; print([m for m in {late} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
