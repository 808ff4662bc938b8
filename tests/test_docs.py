"""The documentation says what is: every command parses, every Python block runs, every name and link exists."""

import ast
import dataclasses
import importlib
import importlib.util
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import types
import typing
from pathlib import Path

import pytest

import innerpo
from innerpo import cli, registry
from innerpo.cli.commands import EXAMPLES
from innerpo.config.method import MethodConfig
from innerpo.config.run import RunConfig, default_run
from innerpo.config.yaml import overlay, preset_dir, read_yaml
from innerpo.data.shifts import suites
from innerpo.data.sources import embedded, ethics, files
from innerpo.evaluation.facts import PAIRS, RESPONSES
from innerpo.experiments.launch_options import RayOptions, SlurmOptions
from innerpo.experiments.study import read_study_file
from tools import docs_index

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LINKING = [*PAGES, ROOT / "CHANGELOG.md", ROOT / "LOG.md"]
FENCE = re.compile(r"^```([^\n`]*)\n(.*?)^```\s*$", re.M | re.S)
OTHER_PROGRAMS = {"accelerate", "git", "hf", "lm_eval", "pip", "tools/slurm_here.sh", "torchrun", "vllm"} | {
    ".venv/bin/pytest"
}
"""Programs that the pages name and this test does not look into, beyond the paths in their arguments."""


def name_of(page):
    return str(page.relative_to(ROOT))


def blocks(page, *kinds):
    """(first line number, info string, text) of the fenced blocks of some kinds."""
    text = page.read_text(encoding="utf-8")
    for found in FENCE.finditer(text):
        info = found[1].strip()
        if info.split(" ")[0] in kinds:
            yield text[: found.start()].count("\n") + 2, info, found[2]


def prose(page):
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def commands():
    """Every distinct command line of the pages, and of ``innerpo examples``, with where it stands first."""
    found = {}
    for page in PAGES:
        for line, _, text in blocks(page, "sh", "bash"):
            for i, command in enumerate(text.replace("\\\n", "  ").splitlines()):
                if command.strip() and not command.lstrip().startswith("#"):
                    found.setdefault(command.strip(), f"{name_of(page)}:{line + i}")
    for command in EXAMPLES:
        found.setdefault(command, "innerpo examples")
    return found


def words_of(command):
    """A command line as a shell reads it, without the variables set before it."""
    words = shlex.split(command, comments=True)
    while words and re.fullmatch(r"[A-Z_0-9]+=.*", words[0]):
        words = words[1:]
    return words


def cli_arguments(words):
    """The arguments that reach ``innerpo``, or None for another program."""
    if words[0] in ("innerpo", ".venv/bin/innerpo"):
        return words[1:]
    if Path(words[0]).name == "python" and words[1:2] == ["cli.py"]:
        return words[2:]
    if Path(words[0]).name == "python" and words[1:3] == ["-m", "innerpo"]:
        return words[3:]
    return None


def benchmark_arguments(words):
    """The module of a benchmark and its arguments, or None for another program."""
    if Path(words[0]).name == "python" and words[1:2] == ["-m"] and words[2].startswith("benchmarks."):
        return words[2], words[3:]
    return None


ON_FOLDERS = ("eval", "inspect", "export", "generate", "combine", "merge", "push", "chat")


BEHIND_THE_FLAGS = {
    "innerpo.run": ("train", "evaluate"),
    "innerpo.capability": ("with_capability",),
    "innerpo.data.describe": ("describe",),
    "innerpo.demo": ("run_demo",),
    "innerpo.doctor.checks": ("run_checks",),
    "innerpo.evaluation.inspect.run": ("inspect_run",),
    "innerpo.evaluation.export": ("export_run",),
    "innerpo.evaluation.generate": ("generate_run",),
    "innerpo.sharing.merge": ("merge_run",),
    "innerpo.sharing.push": ("push_run",),
    "innerpo.sharing.gguf_lora": ("export_lora",),
    "innerpo.cli.chat_loop": ("run_chat",),
    "innerpo.training.combine": ("combine_adapters",),
    "innerpo.evaluation.facts": ("read_scores",),
    "innerpo.evaluation.bridges.agreement": ("agreement",),
    "innerpo.evaluation.bridges.export": ("export_dataset",),
    "innerpo.evaluation.bridges.lm_eval_results": ("read_results",),
    "innerpo.cli.render_bridge": ("agreement_table", "counts_table"),
    "innerpo.cli.render_generations": ("side_by_side",),
    "innerpo.evaluation.report.write": ("report_runs",),
    "innerpo.cli.completion": ("write_completion",),
    "innerpo.view.server": ("serve",),
    "innerpo.cli.render_data": ("as_rich",),
    "innerpo.cli.render_doctor": ("as_rich",),
    "innerpo.cli.render_scores": ("inspection_table",),
    "innerpo.cli.over_runs": ("show_table", "show_curves", "show_comparison"),
    "innerpo.cli.sweep_runs": ("list_runs", "run_sweep"),
    "innerpo.experiments.tuning.tune": ("search",),
    "innerpo.plan": ("plan_run",),
    "innerpo.cli.render_plan": ("as_rich",),
    "innerpo.cli.render_tune": ("trials_table", "summary"),
}
"""What the verbs import and call once the options have been read."""


class Recorder:
    """Takes the place of everything behind the flags, and keeps what it was called with."""

    def __init__(self, monkeypatch, folder):
        self.calls = []
        modules = [importlib.import_module(module) for module in BEHIND_THE_FLAGS]  # all, before any is changed
        for module, functions in zip(modules, BEHIND_THE_FLAGS.values(), strict=True):
            for function in functions:
                monkeypatch.setattr(module, function, self._instead_of(function))
        monkeypatch.chdir(folder)
        for data in ("configs", "studies"):
            (folder / data).symlink_to(ROOT / data)

    def _instead_of(self, function):
        def record(*args, **options):
            self.calls.append((function, args))
            exported = {
                "label": "",
                "energy_kept": 1.0,
                "notes": (),
                "pairs": {},
                "path": "",
                "texts": (),
                "dtype": "",
                "millions": 0.0,
                "url": "",
                "write": lambda *_: None,
            }
            return types.SimpleNamespace(failures=(), tables=None, folder="", faults=(), **exported)

        return record

    def parse(self, args):
        """Run the command line; return its exit code, --help's included."""
        self.calls.clear()
        if args[0] == "view":
            Path(args[1]).mkdir(exist_ok=True)
        if args[0] in ON_FOLDERS and len(args) > 1 and args[1].lstrip("./").startswith("outputs/"):
            Path(args[1]).mkdir(parents=True, exist_ok=True)
            (Path(args[1]) / "adapter_config.json").write_text('{"base_model_name_or_path": "smollm2-135m"}')
            reads_states = not Path(args[1]).name.startswith("dpo")
            (Path(args[1]) / "config.yaml").write_text(f"method: {{name: {'innerpo' if reads_states else 'dpo'}}}")
        for word in args:
            if word.startswith("--config=outputs/"):  # what an earlier command of the page writes
                path = Path(word.partition("=")[2])
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("training: {lr: 1e-4}\n")
        try:
            return cli.main(args)
        except SystemExit as stop:
            return stop.code or 0


@pytest.fixture
def recorder(monkeypatch, tmp_path):
    return Recorder(monkeypatch, tmp_path)


def check_innerpo(args, recorder, capfd):
    code = recorder.parse(args)
    said = capfd.readouterr().err
    assert code == 0, said
    needs_no_call = "examples" in args or "--version" in args or any(a.startswith("--help") for a in args)
    assert needs_no_call or recorder.calls, f"{args} reached nothing"


def check_just(words, recorder, capfd):
    recipes = re.findall(r"^([a-z-]+)[^:=\n]*:(?!=)", (ROOT / "justfile").read_text(), re.M)
    assert words[1] in recipes
    just = shutil.which("just", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if just is None:
        pytest.skip("just is not installed")
    options = ["--justfile", str(ROOT / "justfile")]
    dry = subprocess.run([just, *options, "--dry-run", *words[1:]], capture_output=True, text=True, check=False)
    assert dry.returncode == 0, dry.stderr
    if "cli.py" not in dry.stderr and "-m benchmarks." not in dry.stderr:
        for line in filter(str.strip, dry.stderr.splitlines()):
            check(line, recorder, capfd)
        return
    # Run the recipe with a python that only tells its arguments, so that quotes are seen as the program would.
    tell = f"{sys.executable} -c 'import sys, json; print(json.dumps(sys.argv[1:]))'"
    run = subprocess.run(
        [just, *options, "--set", "python", tell, *words[1:]], capture_output=True, text=True, check=True
    )
    script, *args = json.loads(run.stdout)
    if script == "-m":
        check_benchmark(*args)
        return
    assert script == "cli.py"
    check_innerpo(args, recorder, capfd)


def check_benchmark(module, *args):
    importlib.import_module(module).parse(args)  # leaves the program where a flag is wrong


def check_make(words):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    assert words[1] in targets


def check(command, recorder, capfd):
    words = words_of(command)
    if (args := cli_arguments(words)) is not None:
        check_innerpo(args, recorder, capfd)
    elif (benchmark := benchmark_arguments(words)) is not None:
        check_benchmark(benchmark[0], *benchmark[1])
    elif words[0] == "just":
        check_just(words, recorder, capfd)
    elif words[0] == "make":
        check_make(words)
    else:
        if (
            Path(words[0]).name == "python"
            and words[1] == "-m"
            and words[2].startswith(("tools.", "studies.", "innerpo."))
        ):
            assert importlib.util.find_spec(words[2]) is not None
            return
        assert words[0] in OTHER_PROGRAMS or (ROOT / words[0]).name in ("ruff", "mypy", "lint-imports", "mkdocs")
        for word in words[1:]:
            if word.startswith("tests/"):
                assert (ROOT / word).exists()


@pytest.mark.parametrize("command", commands(), ids=lambda c: c[:60])
def test_command_is_real_and_its_flags_parse(command, recorder, capfd):
    check(command, recorder, capfd)


def test_a_wrong_flag_or_verb_would_be_noticed(recorder, capfd):
    for wrong in ("innerpo train dpo --training.lrr=1", "innerpo trian dpo", "just rum dpo", "make tset", "nonsense"):
        with pytest.raises(AssertionError):
            check(wrong, recorder, capfd)
    capfd.readouterr()


def test_evaluated_folders_are_those_of_documented_runs(recorder):
    made, scored = {"outputs/dpo_math_seed1", "outputs/model"}, {}
    for command, where in commands().items():
        words = words_of(command)
        words = ["innerpo", "train" if words[1] == "run" else words[1], *words[2:]] if words[0] == "just" else words
        args = cli_arguments(words) or ["", ""]
        if args[0] in ON_FOLDERS and not args[1].startswith("-"):
            scored[str(Path(args[1]))] = where
        if args[0] == "combine":
            made.update(a.removeprefix("--out=") for a in args if a.startswith("--out="))
        if (
            args[0] == "train"
            and not any(a.startswith(("--help", "--dry-run")) for a in args)
            and recorder.parse(args) == 0
        ):
            made.add(str(recorder.calls[0][1][0].run_dir))
    assert not {folder: where for folder, where in scored.items() if folder not in made}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_blocks_run(page, tmp_path, monkeypatch, toy_folder, capsys):
    """Blocks of a page share their names, in order; the embedded model is a toy here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INNERPO_CACHE", str(tmp_path / "cache"))
    tables = [value for name, value in vars(registry).items() if name.isupper() and isinstance(value, dict)]
    before = [dict(table) for table in tables]
    namespace = {"__name__": "documentation"}
    try:
        for line, info, text in blocks(page, "python"):
            small = "\n" * (line - 1) + text.replace("smollm2-135m", str(toy_folder))
            code = compile(small, str(page), "exec")
            if info == "python no-run":
                imported_names_exist(text)
            else:
                exec(code, namespace)
    finally:
        for table, entries in zip(tables, before, strict=True):
            table.clear()
            table.update(entries)


def imported_names_exist(text):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "innerpo":
            assert node.attr in innerpo.__all__, ast.unparse(node)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_yaml_blocks_are_configs(page, tmp_path):
    for line, info, text in blocks(page, "yaml"):
        (tmp_path / "config.yaml").write_text(text)
        if info == "yaml study":
            assert read_study_file(tmp_path / "config.yaml").plan.runs
            continue
        overlay(default_run("innerpo"), read_yaml(tmp_path / "config.yaml"), f"{name_of(page)}:{line}")


@pytest.mark.parametrize("page", LINKING, ids=name_of)
def test_links_and_paths_lead_somewhere(page):
    text = prose(page)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("http://", "https://")):
            path, _, anchor = target.partition("#")
            file = page.parent / path if path else page
            assert file.exists(), target
            if anchor:
                titles = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.M)
                assert anchor in {re.sub(r"[^\w -]", "", t).lower().replace(" ", "-") for t in titles}, target
    for path in re.findall(r"(?<![\w/.])((?:src|tests|docs|configs|tools|benchmarks)/[\w./-]*[\w/])", text):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", LINKING, ids=name_of)
def test_options_exist(page):
    sections = {f.name: f.default_factory for f in dataclasses.fields(RunConfig) if f.name != "output_dir"}
    sections |= {"slurm": SlurmOptions, "ray": RayOptions}
    for section, option in re.findall(r"--(\w+)\.([\w-]+)", page.read_text(encoding="utf-8")):
        known = {f.name for f in dataclasses.fields(sections[section])}
        assert option.replace("-", "_") in known, f"--{section}.{option}"


def test_pages_name_no_machine_and_no_registry():
    for page in LINKING:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"/work/|/home/|/root/|pypi\.org|index-url|download\.pytorch", text), page


def choices(field):
    return typing.get_args(typing.get_type_hints(MethodConfig)[field])


def test_nothing_that_can_be_named_is_left_out():
    """Every name of the code's tables stands, in backquotes, on the page where a reader would look for it."""
    environment = {
        name
        for path in (ROOT / "src").rglob("*.py")
        for name in re.findall(r"INNERPO_[A-Z_]+", path.read_text(encoding="utf-8"))
    }
    wanted = {
        "docs/methods.md": [
            *registry.METHODS,
            *registry.TERMS,
            *registry.OUTPUTS,
            *registry.TRANSFORMS,
            *registry.DIRECTIONS,
            *registry.SUBSPACES,
            *registry.GRADIENTS,
            *(c for f in ("pool", "inner") for c in choices(f)),
        ],
        "docs/data.md": [
            *(f"embedded:{name}" for name in embedded.NAMES),
            *(f"ethics:{name}" for name in ethics.SUBSETS),
            *suites(),
        ],
        "docs/evaluation.md": [*RESPONSES, *PAIRS, *registry.SCORERS, *registry.STATISTICS],
        "docs/metrics.md": [*registry.SCORERS, *registry.METRICS],
        "CONTRIBUTING.md": [name for name, value in vars(registry).items() if name.isupper() and name[0] != "_"],
        "docs/configuration.md": [*environment],
        "docs/presets.md": [p.stem for p in preset_dir().glob("*.yaml")],
    }
    for page, names in wanted.items():
        text = prose(ROOT / page)
        assert not [name for name in names if f"`{name}`" not in text], page
    data = prose(ROOT / "docs/data.md")
    assert all(f"`{kind}:" in data for kind in registry.SOURCES)
    assert all(ending.removeprefix(".") in data for ending in files.READERS)


def test_the_index_of_modules_is_made_from_docstrings_and_the_import_contract():
    text = docs_index.INDEX.read_text(encoding="utf-8")
    assert docs_index.with_generated(text) == text, "run `just docs-index`"
    modules = [p.relative_to(ROOT / "src/innerpo").as_posix() for p in (ROOT / "src/innerpo").rglob("*.py")]
    assert not [m for m in modules if not m.endswith("__init__.py") and text.count(f"| `{m}` |") != 1]
    assert [layer for layer in docs_index.layers() if "run" in layer or "cli" in layer][-1] == ["cli"]


def test_the_order_of_layers_is_written_in_one_place():
    """docs/index.md has it from pyproject.toml; no other page repeats it."""
    copies = [page for page in PAGES if re.search(r"methods\s*<-\s*training|training\s*->\s*methods", page.read_text())]
    assert copies == [docs_index.INDEX]


def test_the_names_of_runs_of_another_base_model_are_those_that_training_gives():
    """They hold an id of all options; those on the embedded model are plain."""
    page = (ROOT / "docs" / "bridges.md").read_text()
    options = {"data.dataset": "truthful_qa", "model.base_model": "Qwen/Qwen3-0.6B"}
    name = innerpo.run_config("dpo", **options).run_name
    assert set(re.findall(r"outputs/(dpo_[\w+]*)", page)) == {name}


def public_names():
    """(module, name, object) of all that the package and its TRL interface export."""
    found = [("innerpo", name, getattr(innerpo, name)) for name in innerpo.__all__ if name != "__version__"]
    if importlib.util.find_spec("innerpo.trl") is not None:
        trl = importlib.import_module("innerpo.trl")
        found += [("innerpo.trl", name, getattr(trl, name)) for name in trl.__all__]
    return found


def undocumented(module, name, value):
    """What a reader of the reference would find without a word: the name itself, a method, a field of a record."""
    where = f"{module}.{name}"
    if not (value.__doc__ or "").strip() or value.__doc__.startswith(f"{name}("):  # what a dataclass makes up
        return [where]
    if not isinstance(value, type):
        return []
    own = {k: v for k, v in vars(value).items() if not k.startswith("_")}
    callables = [k for k, v in own.items() if isinstance(v, types.FunctionType | classmethod | staticmethod | property)]
    missing = [f"{where}.{k}" for k in callables if not (getattr(own[k], "__doc__", None) or "").strip()]
    if dataclasses.is_dataclass(value):
        described = documented_fields(value)
        missing += [f"{where}.{k}" for k in vars(value).get("__annotations__", {}) if k not in described]
    return missing


def documented_fields(record):
    """Fields with a docstring beneath them, with a help text, or named in backquotes by the record's own docstring."""
    tree = ast.parse(Path(sys.modules[record.__module__].__file__).read_text(encoding="utf-8"))
    body = next(n for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and n.name == record.__name__).body
    beneath = {
        field.target.id
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }
    helped = {f.name for f in dataclasses.fields(record) if f.metadata.get("help")}
    return beneath | helped | set(re.findall(r"`(\w+)`", record.__doc__))


def test_every_public_name_has_a_docstring():
    assert not [missing for found in public_names() for missing in undocumented(*found)]


def test_every_public_name_is_in_the_reference():
    shown = re.findall(r"^::: (\S+)$", (ROOT / "docs/reference.md").read_text(encoding="utf-8"), re.M)
    public = {f"{module}.{name}": value for module, name, value in public_names()}
    assert not set(shown) - set(public)
    described = [public[name] for name in shown]
    assert not [name for name, value in public.items() if value not in described]  # two names may be one object


def test_a_name_without_a_docstring_would_be_noticed():
    @dataclasses.dataclass
    class Bare:
        field: int = 0

    assert undocumented("here", "Bare", Bare) == ["here.Bare"]
    assert undocumented("here", "f", lambda: None) == ["here.f"]


@pytest.mark.slow
def test_the_site_builds_strictly(tmp_path):
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    reference = (tmp_path / "site/reference.html").read_text(encoding="utf-8")
    assert "Load a base model and its tokenizer." in reference
    pages = list((tmp_path / "site").rglob("*.html"))
    assert not [p for p in pages if "fonts.googleapis" in p.read_text(encoding="utf-8")]


def test_readme_names_what_a_run_writes():
    from innerpo.evaluation.facts import FILES
    from innerpo.training import paths as folder
    from innerpo.training.directions_file import DIRECTIONS

    text = prose(ROOT / "README.md")
    written = (
        folder.CONFIG,
        folder.RECORD,
        DIRECTIONS,
        folder.METRICS,
        *(f"{stem}.parquet" for stem in FILES.values()),
    )
    assert all(f"`{name}`" in text for name in written)
    assert f"`{folder.CHECKPOINTS}/`" in text
    assert f"`{folder.STATE}`" in text
