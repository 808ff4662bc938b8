"""The cue bench's tables: ``python -m studies.cue.table [RUNS]`` stores scores, writes docs/results.md."""

import sys
from pathlib import Path

import polars as pl

from innerpo.evaluation.study import Study, select_runs
from studies.cue.run import METHODS, NOISES, NOISY, RESULTS, RHOS, STRENGTHS, names
from studies.stored import scored, store, stored
from studies.tables import PAGE, UNKNOWN, accuracies, estimate_text, frontier_gains, insert, markdown

LABELS = RESULTS / "labels.parquet"
SETS = ("test", "oos", "rnd")
TITLES = ("method", "seeds", "cue holds (test)", "cue reversed (oos)", "no cue (rnd)")

CONTROLS = {
    "residual": "residual-permuted",
    "residual kappa 2": "residual-permuted kappa 2",
    "residual-artifact": "residual-permuted",
    "reweight x10": "reweight-random x10",
    "ablate": "ablate-random-cue",
    "soft-ablate": "soft-ablate-random-cue",
    "inoculate": "inoculate-random-cue",
}
"""Method -> the control that must lose to it."""


def bench_table(study: Study) -> str:
    """Accuracies at full strength, and what each method gains out of distribution at equal accuracy in distribution."""
    rows = {name: name for name in METHODS}
    seeds = {row: study.runs.filter(study.runs["method"] == row)["seed"].n_unique() for row in rows.values()}
    figures, over_dpo = accuracies(study, rows, SETS), frontier_gains(study, rows, "dpo")
    lines = []
    for name, cells in figures.items():
        control = CONTROLS.get(name, "")
        pair = {name: rows[name], control: rows[control]} if control in figures else {}
        over_control = frontier_gains(study, pair, control) if control in pair else {}
        gain, more = (
            next((g for (n, _), g in found.items() if n == name), UNKNOWN) for found in (over_dpo, over_control)
        )
        number = str(seeds[rows[name]]) if name in rows else ""
        lines.append([name, number, *cells, estimate_text(gain, True), estimate_text(more, True)])
    return markdown([*TITLES, "gain over dpo", "gain over its control"], lines)


def balanced_table(study: Study) -> str:
    """DPO where the cue says nothing in training."""
    rows = {"dpo, rho .5": "dpo"}
    lines = [[name, *cells] for name, cells in accuracies(study, rows, SETS).items()]
    return markdown(["method", *TITLES[2:]], lines)


def noise_tables(study: Study) -> str:
    """Mean accuracy over seeds at full strength, a table a set, by share of wrong labels and rate of the cue."""
    rows = {name: name for name in NOISY}
    cells = [(noise, rho) for noise in NOISES for rho in RHOS]
    by_cell, seeds = [], []
    for noise, rho in cells:
        own = study.runs.filter(study.runs["source"] == f"embedded:cue(rho={rho:g},noise={noise:g})")
        by_cell.append(accuracies(select_runs(study, own["run"].to_list()), rows, SETS) if len(own) else {})
        seeds.append({name: own.filter(own["method"] == name)["seed"].n_unique() for name in rows})
    most = max(n for cell in seeds for n in cell.values())

    def shown(cell: int, name: str, of_set: int) -> str:
        if name not in by_cell[cell]:
            return ""
        fewer = seeds[cell].get(name, most)  # the base has no seeds
        return by_cell[cell][name][of_set].split(" ")[0] + (f" ({fewer})" if fewer < most else "")

    header = ["method", *(f"{noise:.0%}, rho {rho:g}" for noise, rho in cells)]
    texts = [f"Means of {most} seeds; in parentheses the number of seeds where there are fewer.\n"]
    for i, title in enumerate(TITLES[2:]):
        lines = [[name, *(shown(cell, name, i) for cell in range(len(cells)))] for name in ["base", *rows]]
        texts.append(f"{title}:\n\n{markdown(header, lines)}")
    return "\n".join(texts)


def labels_table(rows: pl.DataFrame) -> str:
    """What tells a pair that contradicts the cue from a mislabelled one: area under the curve, and shares got wrong.

    The area is the mean over data seeds, with the least and the largest; the shares are means over all cells.
    """
    cells = sorted(rows["dataset"].unique())
    lines = []
    for reader in rows.select("reader").unique(maintain_order=True)["reader"]:
        own, line = rows.filter(pl.col("reader") == reader), [reader]
        for cell in cells:
            found = own.filter(pl.col("dataset") == cell)["auc"].to_numpy()
            spread = f" ({found.min():.2f} to {found.max():.2f})" if len(found) > 1 else ""
            line.append(f"{found.mean():.3f}{spread}")
        line += [
            f"{own[f'wrong_of_{kind}'].to_numpy().mean():.2f}" for kind in ("contradicts", "mislabelled", "others")
        ]
        lines.append(line)
    titles = [
        cell.removeprefix("embedded:cue(").removesuffix(")").replace("=", " ").replace(",", ", ") for cell in cells
    ]
    wrong = ("wrong of contradicting", "wrong of mislabelled", "wrong of others")
    return markdown(["reader", *titles, *wrong], lines)


def tables(found: dict[str, Study]) -> dict[str, str]:
    """The text of each table whose runs are stored, by the name of its marks in docs/results.md."""
    texts = {}
    if "bench" in found:
        strengths = ", ".join(f"{s:g}" for s in STRENGTHS)
        texts["cue/bench"] = (
            f"Accuracy at full strength; gains over strengths {strengths}.\n\n{bench_table(found['bench'])}"
        )
    if "balanced" in found:
        text = f"Trained where the cue holds in half of the pairs.\n\n{balanced_table(found['balanced'])}"
        texts["cue/balanced"] = text
    if "noise" in found:
        texts["cue/noise"] = noise_tables(found["noise"])
    if LABELS.is_file():
        texts["cue/labels"] = labels_table(pl.read_parquet(LABELS))
    return texts


def read() -> dict[str, Study]:
    """Return the stored studies by part."""
    return {part.name: stored(part) for part in sorted(RESULTS.glob("*")) if part.is_dir()}


if __name__ == "__main__":
    for part in ("bench", "balanced", "noise") if len(sys.argv) > 1 else ():
        if runs := scored(Path(sys.argv[1]) / part):
            store(runs, RESULTS / part, names())
    for name, text in tables(read()).items():
        insert(PAGE, name, text)
