"""The section on layers: what an adapter changed in each block, where ``inspect`` was run."""

from pathlib import Path
from typing import Any

from innerpo.evaluation.report import charts
from innerpo.evaluation.report.cells import number, text, whole
from innerpo.evaluation.report.folders import read_json, run_folder, runs_of
from innerpo.evaluation.report.records import Figure, Section, Series, Table
from innerpo.evaluation.study import Study

PANELS = {
    "along": ("along the direction, reference s.d.", "How far chosen and rejected moved apart along the direction."),
    "across": ("across it (drift)", "How far states moved in all other directions, relative to their spread."),
    "cosine": ("cosine, policy and reference", "1 where the pooled states of policy and reference are parallel."),
    "accuracy": (
        "accuracy of the direction",
        "Share of test pairs that the direction ranks rightly: solid with the policy's states, dashed the reference's.",
    ),
}
"""Name of a panel -> title of its axis, and how to read it."""

MEASURES = ("along", "across", "cosine", "accuracy_before", "accuracy_after")
COLUMNS = ("run", "block", "read", "along", "across", "cosine", "accuracy before", "accuracy after")


def layers_section(study: Study, series: tuple[Series, ...]) -> Section | None:
    """Return four charts over the blocks, or None where no run was inspected."""
    files: dict[Path, dict[str, Any]] = {}
    for run in runs_of(study):
        files.setdefault(_file(run), run)  # scores of several suites share the inspection of their run
    found = {}
    for path, run in files.items():
        blocks = read_json(path).get("blocks")
        if isinstance(blocks, list) and blocks:
            found[run["run"]] = (run, [b for b in blocks if isinstance(b, dict) and "block" in b])
    if not found:
        return None
    used = tuple(s for s in series if s.label in {run["method"] for run, _ in found.values()})
    figures = tuple(_panel(name, found, used) for name in PANELS)
    rows = tuple(
        (
            text(name),
            whole(block["block"]),
            text("yes" if block.get("read") else ""),
            *(number(block.get(measure), 4) for measure in MEASURES),
        )
        for name, (_, blocks) in found.items()
        for block in blocks
    )
    about = (
        f"Policy against reference on test pairs, block by block, of the {len(found)} runs that were inspected: means "
        "over pairs, without intervals. The directions are those of the reference on the run's own training pairs."
    )
    return Section("layers", "Movement by layer", (about,), (), figures, used, Table("By block", COLUMNS, rows))


def _file(run: dict[str, Any]) -> Path:
    own = Path(run["folder"]) / "inspect.json"
    return own if own.is_file() else run_folder(run["folder"]) / "inspect.json"


def _panel(
    name: str, found: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]], series: tuple[Series, ...]
) -> Figure:
    axis, caption = PANELS[name]
    kinds = {"policy": "accuracy_after", "reference": "accuracy_before"} if name == "accuracy" else {"policy": name}
    rows = [
        {"series": run["method"], "line": f"{run_name}, {kind}", "kind": kind, "x": b["block"], "y": b.get(measure)}
        for run_name, (run, blocks) in found.items()
        for kind, measure in kinds.items()
        for b in blocks
        if b.get(measure) is not None
    ]
    spec = charts.lines(rows, series, "block", axis, dashed="kind" if len(kinds) > 1 else "")
    description = f"{axis} over the blocks of the model, {len(found)} runs; the table below has the numbers."
    return Figure(f"layers-{name}", name, caption, description, spec)
