"""Families of transformers: layout, log-probabilities, training, and their lines in docs/models.md.

Where a line differs from what is measured here, write the page anew: ``python tests/families.py``.
"""

import math

import pytest

from families import FAST, PAGE, SLOW, STEPS, measure, page


def lines():
    return [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]


def test_the_page_lists_these_families():
    assert len(lines()) == len(FAST) + len(SLOW) >= 25
    assert {line.split("`")[1] for line in lines()} == {family.name for family in (*FAST, *SLOW)}
    assert PAGE.read_text() == page(lines())


@pytest.mark.parametrize(
    "family",
    [*FAST, *(pytest.param(family, marks=pytest.mark.slow) for family in SLOW)],
    ids=lambda family: family.name,
)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore:The following (rank|alpha)_pattern")
def test_family(family, tmp_path):
    found = measure(family, tmp_path)
    assert found.row() in lines(), "docs/models.md is out of date: python tests/families.py"
    if found.layout == "refused":
        return
    assert found.concatenated < 1e-4
    assert found.one_row < 1e-4 or found.layout == "concatenated"
    assert found.reloaded < 1e-4
    assert found.removed == 0.0
    assert len(found.outputs) == STEPS
    assert found.outputs[0] == pytest.approx(math.log(2), abs=1e-6)
    assert found.outputs[-1] < found.outputs[1] < found.outputs[0]
    assert abs(found.drift) < 1e-6
    assert all(0 < norm < math.inf for norm in found.gradient_norms)
