"""The files of an inspection: json, csv and a plot of four panels over the blocks."""

import csv
import io
import json
from dataclasses import asdict, fields
from typing import Any

from innerpo.evaluation.inspect.records import BlockRow, Inspection
from innerpo.files import write_atomically, write_text


def write_inspection(inspection: Inspection) -> None:
    """Write inspect.json, inspect.csv, and the plot as inspect.png and inspect.svg, into the inspection's folder."""
    folder, rows = inspection.folder, [asdict(row) for row in inspection.rows]
    plain = {k: v for k, v in vars(inspection).items() if k not in ("folder", "rows")} | {"blocks": rows}
    write_text(folder / "inspect.json", json.dumps(plain, indent=2) + "\n")
    text = io.StringIO()
    writer = csv.DictWriter(text, [f.name for f in fields(BlockRow)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / "inspect.csv", text.getvalue())
    drawn = plot(inspection)
    write_atomically(folder / "inspect.svg", lambda p: drawn.save(str(p), format="svg"))
    write_atomically(folder / "inspect.png", lambda p: drawn.save(str(p), format="png", scale_factor=2))


def plot(inspection: Inspection) -> Any:
    """Four panels over the blocks: along, across, cosine, accuracy before and after."""
    import altair as alt

    panels: dict[str, dict[str, str]] = {
        "along the direction (reference s.d.)": {"policy": "along"},
        "across it (drift)": {"policy": "across"},
        "cosine, policy and reference": {"policy": "cosine"},
        "accuracy of the direction": {"reference": "accuracy_before", "policy": "accuracy_after"},
    }

    def panel(title: str, lines: dict[str, str]) -> Any:
        values = [
            {"block": row.block, "value": getattr(row, name), "model": model}
            for model, name in lines.items()
            for row in inspection.rows
        ]
        color = alt.Color("model:N", scale=alt.Scale(domain=["reference", "policy"], range=["#8c8c8c", "#2563a8"]))
        chart = alt.Chart(alt.Data(values=values), width=300, height=170).mark_line(point=True)
        x = alt.X("block:Q", axis=alt.Axis(tickMinStep=1, format="d"))
        return chart.encode(x=x, y=alt.Y("value:Q", title=title, scale=alt.Scale(zero=False)), color=color)

    drawn = [panel(title, lines) for title, lines in panels.items()]
    return alt.vconcat(alt.hconcat(*drawn[:2]), alt.hconcat(*drawn[2:])).properties(title=inspection.title)
