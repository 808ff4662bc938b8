"""Claims about real training, minutes each: `make test-slow`. The bars are the issue's, not chosen after the fact."""

from dataclasses import replace

import pytest
import torch

from innerpo.config import default_run
from innerpo.run import train_and_score

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture(autouse=True)
def all_threads():
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def test_dpo_on_truthful_qa(genies_dir, tmp_path):
    """1 epoch, lr 2e-4, batch 8: test from about .35 to at least .58, alpaca_mmlu within 5 points of base."""
    config = default_run("dpo")
    config = replace(
        config,
        data=replace(config.data, dataset="truthful_qa", genies_dir=genies_dir),
        training=replace(config.training, lr=2e-4, epochs=1.0),
        output_dir=tmp_path,
    )
    cells = train_and_score(config).tables["mean_logp"].cells
    assert cells["base"]["test"].mean == pytest.approx(0.35, abs=0.04)
    assert cells["dpo"]["test"].mean >= 0.58
    assert abs(cells["dpo"]["oos"].mean - cells["base"]["oos"].mean) <= 0.05
