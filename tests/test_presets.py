"""Presets: the shapes of their models, and the table of the memory that they need."""

import socket

import pytest
import torch

from conftest import make_pairs
from innerpo.cli.verbs import main
from innerpo.config.yaml import preset_dir
from innerpo.data.pairs import PreferencePair
from innerpo.data.tokens import PairTokenizer
from innerpo.files import cache_root
from innerpo.model.forward.blocks import decoder_blocks
from innerpo.model.layer_spec import resolve_layers
from innerpo.model.shape import EMBEDDED_SHAPE, meta_model
from innerpo.model.stand_in import FourCharacters, local_tokenizer
from tools import preset_table

PUBLISHED = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": 134.5e6,
    "HuggingFaceTB/SmolLM2-360M-Instruct": 362e6,
    "Qwen/Qwen3-0.6B": 0.6e9,
    "Qwen/Qwen3-1.7B": 1.72e9,
    "Qwen/Qwen3-4B": 4.02e9,
    "Qwen/Qwen3-8B": 8.19e9,
    "meta-llama/Llama-3.2-1B-Instruct": 1.23e9,
    "meta-llama/Llama-3.2-3B-Instruct": 3.21e9,
    "meta-llama/Llama-3.1-8B-Instruct": 8.03e9,
    "google/gemma-3-1b-it": 999_885_952,
}
"""Parameters as the models' cards and reports have them, a tied matrix once."""


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network, no cached model of the Hub."""

    def refuse(*args, **kwargs):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)


def named_presets():
    return [p.stem for p in preset_dir().glob("*.yaml") if p.stem not in ("demo", "dev", "gpu")]


@pytest.mark.parametrize("name", sorted(named_presets()))
def test_a_presets_model_has_the_published_size_and_the_blocks_that_are_read(name, offline):
    config = preset_table.preset(name)
    model, source = meta_model(config.model, torch.device("cpu"))
    published = PUBLISHED[EMBEDDED_SHAPE if name == "smollm2-135m" else config.model.base_model]
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(published, rel=0.02)
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert len(resolve_layers(config.method.layers, len(decoder_blocks(model)))) == 3
    assert "that comes with the presets" in source


def test_the_embedded_models_tokenizer_stands_in_for_one_that_is_not_here(offline):
    own, note = local_tokenizer(preset_table.preset("smollm2-135m").model, cache_root(None))
    other, said = local_tokenizer(preset_table.preset("qwen3-0.6b").model, cache_root(None))
    assert note == ""
    assert said == "the tokenizer of Qwen/Qwen3-0.6B is not on this machine; lengths are those of smollm2-135m's"
    assert own("a b c")["input_ids"] == other("a b c")["input_ids"]


def test_every_preset_is_in_the_table():
    assert sorted(preset_table.PRESETS) == sorted(named_presets())
    text = preset_table.PAGE.read_text()
    assert [text.count(f"\n| `{name}` |") for name in preset_table.PRESETS] == [1] * len(preset_table.PRESETS)


def figures(line):
    return [float(cell.split()[0]) for cell in line.strip("| ").split(" | ") if cell.endswith(" GB")]


@pytest.mark.slow
def test_the_table_is_what_the_estimate_gives(offline):
    """Sizes within 5 %: another version of transformers may keep another tensor."""
    text = preset_table.PAGE.read_text()
    for name in preset_table.PRESETS:
        (written,) = (line for line in text.splitlines() if line.startswith(f"| `{name}` |"))
        made = preset_table.row(name)
        assert figures(written) == pytest.approx(figures(made), rel=0.05, abs=0.1)
        assert [c for c in written.split(" | ") if " GB" not in c] == [c for c in made.split(" | ") if " GB" not in c]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(p.stem for p in preset_dir().glob("*.yaml")))
def test_every_presets_dry_run_works_offline(name, offline, capsys):
    words = [f"--preset={name}", "--dry-run", "--data.dataset=embedded:longer", "--data.max_train_prompts=16"]
    assert main(["train", "innerpo", *words, "--eval.max_prompts=8"]) == 0
    shown = capsys.readouterr().out
    assert "peak: " in shown
    assert "nothing was written" in shown


def test_four_characters_a_token_stand_in_for_a_tokenizer():
    tokens, pairs = PairTokenizer(FourCharacters(), 200, 200), make_pairs(6)
    for pair, item in zip(pairs, tokens.training_items(pairs), strict=True):
        assert len(item.prompt) == pytest.approx(len(pair.prompt) / 4, abs=1)
        assert len(item.responses[0]) == pytest.approx(len(pair.chosen) / 4, abs=2.5)
        assert len(item.pairs) == 1
    said = [({"role": "assistant", "content": letter * 400},) for letter in "ab"]
    chat = PreferencePair(({"role": "user", "content": "x" * 400},), *said, "1", "toy", "train", "c")
    (item,) = tokens.training_items([chat])
    assert (len(item.prompt), [len(r) for r in item.responses]) == (102, [102, 102])
