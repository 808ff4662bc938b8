"""The library is quiet: below cli/ nothing prints, no text names a flag, and a program hears nothing by default."""

import ast
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from innerpo.cli.verbs import VERBS
from innerpo.errors import FIELDS, MachineError, UserError, fields_in, mark_fields

SRC = Path(__file__).parents[1] / "src" / "innerpo"
FLAG = re.compile(r"(?<![\w-])--[a-z][\w.-]*")
COMMAND = re.compile(rf"\b(?:innerpo|cli\.py)(?:`|\s)+(?:{'|'.join(VERBS)})\b")
OF_OTHERS = {"--no-deps", "--use_fsdp", "--num_processes"}
"""Flags of pip and accelerate, which a message may name."""


def violations(text):
    """(line, what) of every print, use of rich, flag and command line in a module's code and strings."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("print", "input"):
            found.append((node.lineno, f"{node.func.id}()"))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("sys.stdout", "sys.stderr"):
            found.append((node.lineno, ast.unparse(node)))
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            found += [(node.lineno, f"import {name}") for name in names if name.split(".")[0] in ("rich", "tqdm")]
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            flags = [word for word in FLAG.findall(node.value) if word not in OF_OTHERS]
            found += [(node.lineno, word) for word in (*flags, *COMMAND.findall(node.value))]
    return found


@pytest.mark.parametrize("path", [p for p in SRC.rglob("*.py") if SRC / "cli" not in p.parents], ids=str)
def test_nothing_below_the_command_line_prints_or_names_a_flag(path):
    assert violations(path.read_text()) == []


@pytest.mark.parametrize(
    "planted",
    [
        "print('done')",
        "def f():\n    '''Set --training.lr.'''",
        "log.info(f'{n} left, see --data.layout')",
        "raise UserError('score it by innerpo eval RUN')",
        "'''`innerpo train` step by step.'''",
        "from rich.table import Table",
        "import rich.console",
        "sys.stderr.write('x')",
    ],
)
def test_a_planted_violation_is_found(planted):
    assert violations(planted)


@pytest.mark.parametrize("innocent", ["'a -- b'", "'pip install --no-deps x'", "'''innerpo trains'''", "x = a - -b"])
def test_what_only_resembles_one_is_not(innocent):
    assert violations(innocent) == []


# -- errors that carry fields ------------------------------------------------------------------------------------------


def test_an_error_carries_the_fields_that_it_names_or_is_given():
    error = UserError("add training.resume to go on, or training.overwrite; see data.layout.")
    assert error.fields == ("training.resume", "training.overwrite", "data.layout")
    assert UserError("out of memory", "data.batch_size").fields == ("data.batch_size",)
    assert MachineError("method.layers='9' names no layer").fields == ("method.layers",)
    assert str(UserError("out of memory", "data.batch_size")) == "out of memory"


@pytest.mark.parametrize(
    ("text", "marked"),
    [
        ("add training.resume, or another output_dir.", "add --training.resume, or another --output_dir."),
        ("method.subspace.rank must be above 0", "--method.subspace.rank must be above 0"),
        ("no model.safetensors in data.json", "no model.safetensors in data.json"),
        ("c.yaml.training.lr: 'fast' is not a float", "c.yaml.training.lr: 'fast' is not a float"),
        ("/data.layout/x and training.lr.bak", "/data.layout/x and training.lr.bak"),
        ("--training.lr takes a number", "--training.lr takes a number"),
    ],
)
def test_only_names_of_fields_become_flags(text, marked):
    assert mark_fields(text, "--") == marked


def test_every_field_is_known():
    assert {"training.lr", "method.subspace.rank", "eval.skip", "output_dir"} <= FIELDS
    assert "method.subspace" not in FIELDS
    assert all(fields_in(name) == (name,) for name in FIELDS)


# -- a program and a terminal ------------------------------------------------------------------------------------------

WORK = """
import logging
from innerpo.progress import track
log = logging.getLogger("innerpo.test")
def work():
    for _ in track(range(3), "counting"):
        log.info("one more; see data.layout")
    log.warning("mind this")
"""
LISTEN = "from innerpo.cli.console import listening\nimport innerpo.config.run\nwith listening():\n    work()\n"


def run(code, **options):
    return subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, **options)


def test_a_program_hears_nothing_by_default():
    done = run(WORK + "work()")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_command_line_shows_the_log_on_stderr_with_flags():
    done = run(WORK + LISTEN)
    assert done.stdout == ""
    assert done.stderr.splitlines() == ["one more; see --data.layout"] * 3 + ["mind this"]
    assert run(WORK + LISTEN, env=os.environ | {"RANK": "1"}).stderr == ""


def test_a_terminal_shows_progress():
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    subprocess.run([sys.executable, "-c", WORK + LISTEN], stderr=theirs, check=True, env=environment)
    os.close(theirs)
    shown = b""
    while True:
        try:
            shown += os.read(ours, 4096)
        except OSError:  # the other end is closed and all is read
            break
    os.close(ours)
    assert b"counting" in shown
    assert b"3/3" in shown


def test_importing_the_library_is_quick_and_needs_no_torch():
    code = "import time; t = time.process_time(); import innerpo; import sys; d = time.process_time() - t\n"
    done = run(code + "print(d, *[m for m in ('torch', 'transformers', 'numpy', 'rich') if m in sys.modules])")
    assert done.returncode == 0, done.stderr
    seconds, *heavy = done.stdout.split()
    assert heavy == []
    assert float(seconds) < 0.3  # 0.01 as a rule; processor time, since other tests run beside this one
