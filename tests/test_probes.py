"""The probe table: one pass reads all that single requests read; outcomes, table and its marks; what is stored."""

from pathlib import Path

import polars as pl
import pytest
import torch

from innerpo.data.tokens import PairTokenizer
from innerpo.evaluation.statistics import proportion
from innerpo.model.forward.outputs import StateRequest
from innerpo.model.reference import compute_reference
from studies.probes import readers, table
from studies.probes.readers import pairs_of
from studies.probes.run import SHIFTS, Options, run
from studies.probes.states import POOLS, measure

RESULTS = Path(__file__).parents[1] / "studies/probes/results"


def test_one_pass_reads_what_the_references_of_each_pool_and_site_do(toy, pairs, tokenizer, tmp_path):
    items = PairTokenizer(tokenizer, 64, 64).scoring_items(pairs)
    found = measure(toy, items, (1, 3), tmp_path, 4)
    options = {"batch_size": 4, "cache_dir": tmp_path, "what": "toy"}
    layout = "one_row"
    for i, pool in enumerate(POOLS):
        wanted = compute_reference(toy, items, layout, StateRequest((1, 3), pool), **options)
        torch.testing.assert_close(found.pooled[i], wanted.pooled, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found.logps, wanted.logps, atol=1e-4, rtol=1e-4)
    heads = compute_reference(toy, items, layout, StateRequest((0, 1, 2, 3), "last", site="o_proj_in"), **options)
    torch.testing.assert_close(found.heads, heads.pooled, atol=1e-4, rtol=1e-4)
    toy.model = None  # the second time nothing is run
    with pytest.raises(AttributeError):
        measure(toy, items, (2,), tmp_path, 4)


def test_pairs_are_rows_of_states(toy, pairs, tokenizer, tmp_path):
    found = pairs_of(measure(toy, PairTokenizer(tokenizer, 64, 64).scoring_items(pairs[:3]), (1,), tmp_path, 4))
    assert found.chosen.tolist() == [0, 2, 4]
    assert found.rejected.tolist() == [1, 3, 5]
    assert found.clusters.tolist() == [0, 1, 2]
    pooled = found.states.pooled[0, 0]
    torch.testing.assert_close(found.d(0, [0])[0], pooled[0::2] - pooled[1::2])


@pytest.fixture(scope="module")
def measured(toy_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("probes")
    options = Options(out, ("embedded:compare",), pairs=12, prompts=8, base_model=str(toy_folder))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INNERPO_CACHE", str(out / "cache"))
        patch.setattr(
            readers, "DIRECTIONS", {name: readers.DIRECTIONS[name] for name in ("shared", "lda - both", "context")}
        )
        (path,) = run(options, {"embedded:compare": ("embedded:control",)})
        written = path.stat().st_mtime_ns
        assert run(options, {}) == [path]  # resumes: nothing is measured twice
    assert path.stat().st_mtime_ns == written
    return table.read(out)


def test_every_reader_orders_every_pair(measured):
    (frame,) = measured.values()
    assert frame["set"].unique(maintain_order=True).to_list() == ["train", "test", "embedded:control"]
    counts = frame.group_by("set", maintain_order=True).len()["len"].to_list()
    assert counts[0] == 12
    found = table.readers(frame)
    assert len(found) == 2 + 3 * len(POOLS) * 4 + 2  # the toy's blocks 1, 2, 3 and the middle one again
    assert frame.select(found).null_count().sum_horizontal().item() == 0
    assert frame.select(pl.max_horizontal(pl.max(*found))).item() <= 2
    assert {r.split("/")[0] for r in found} == {
        "base",
        "longer",
        "shared",
        "lda - both",
        "context",
        "heads",
        "random heads",
    }


def test_the_table_is_recomputed_from_outcomes(measured):
    (frame,) = measured.values()
    text = table.markdown(measured)
    rows = frame.filter(pl.col("set") == "test")
    by_hand = proportion((rows["shared/mean/middle"] / 2).to_numpy(), rows["prompt"].to_list())
    assert "| shared/mean | " in text
    assert f"{by_hand.mean:.3f} [{by_hand.low:.3f}, {by_hand.high:.3f}]" in text
    wrong = (frame.filter(pl.col("set") == "train")["shared/mean/middle"] == 0).mean()
    assert f"| shared/mean | {wrong:.3f} |" in text


def test_marks_say_where_a_reader_differs_from_the_base():
    n = 40
    about = {
        "source": ["s"] * n,
        "set": ["test"] * n,
        "pair": list(map(str, range(n))),
        "prompt": list(map(str, range(n))),
    }
    frame = pl.DataFrame(about | {"base": [0, 2] * 20, "good": [2] * n, "bad": [0] * n, "same": [2, 0] * 20})
    assert [table._mark(frame, "test", r) for r in ("good", "bad", "same", "base")] == [" +", " -", "", ""]


def test_the_development_shifts_are_those_of_the_design():
    assert sorted((s, t) for s, targets in SHIFTS.items() for t in targets) == [
        ("alpaca_low_quality", "alpaca_high_quality"),
        ("alpaca_mmlu", "ranking_logic"),
        ("alpaca_mmlu", "wrong_arc"),
        ("arc_easy", "arc_hard"),
        ("truthful_qa", "alpaca_mmlu"),
    ]


@pytest.mark.skipif(not RESULTS.is_dir(), reason="the probe table has not been measured yet")
def test_the_stored_table_is_that_of_the_stored_outcomes():
    assert (RESULTS / table.TABLE).read_text() == table.markdown(table.read(RESULTS))
