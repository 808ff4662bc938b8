"""Toy models and tokenizers, built here, so that every fast test runs the real code on something small."""

import inspect
import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from innerpo.data.pairs import PreferencePair, cluster_of
from innerpo.data.tokens import PairTokenizer
from innerpo.model.base import Base
from innerpo.model.numerics import fused_lora

SHARED = Path(__file__).parents[2] / "shared" / "data"

CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def run_in(out, name):
    """The one run of a name beneath a folder of runs, whatever id stands behind its plus."""
    (found,) = (path for path in out.iterdir() if path.name.split("+")[0] == name)
    return found


def pytest_configure(config):
    torch.set_num_threads(1)  # toy matrices: threads would only wait for one another


@pytest.fixture(scope="session")
def tokenizer():
    return build_tokenizer()


def build_tokenizer():
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    corpus = ["Question: which is larger, 3 or 7?\nAnswer: the larger one is 7.", "the cat sat on the mat and ran"] * 4
    tok.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=["<pad>", "<eos>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tok, eos_token="<eos>", pad_token="<pad>")
    fast.chat_template = CHAT_TEMPLATE
    return fast


def build_model(family="llama", **changes):
    torch.manual_seed(0)
    small = {
        "vocab_size": 320,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": 1,
        "initializer_range": 0.3,
    } | changes
    if family == "llama":
        return LlamaForCausalLM(LlamaConfig(**small)).eval()
    if family == "qwen":
        return Qwen3ForCausalLM(Qwen3Config(**small)).eval()
    if family == "gemma":
        kinds = ["sliding_attention", "full_attention"] * 2
        return Gemma3ForCausalLM(Gemma3TextConfig(**small, sliding_window=6, layer_types=kinds)).eval()
    raise ValueError(family)


@pytest.fixture(params=["llama", "qwen", "gemma"])
def family(request):
    return request.param


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory):
    """A toy Llama with its tokenizer as a local folder, as a Hub snapshot would be."""
    folder = tmp_path_factory.mktemp("toy") / "toy-llama"
    build_model().save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


def make_pairs(n=12):
    """Pairs of unequal lengths in which the better response names the larger number."""
    pairs = []
    for i in range(n):
        a, b = (i * 37) % 100, (i * 53 + 11) % 100
        b += a == b
        prompt = f"Question: which is larger, {a} or {b}?" + " Think well." * (i % 3) + "\nAnswer:"
        big, little = max(a, b), min(a, b)
        pairs.append(
            PreferencePair(
                prompt,
                f" {big}" + " is it" * (i % 2),
                f" {little} I think",
                f"toy/{i}",
                "toy",
                "train",
                cluster_of(prompt),
            )
        )
    return pairs


def noisy_siblings(n_prompts, hidden=8, seed=0):
    """Differences without any preference, three rejected responses to each chosen one; and the prompt of each pair."""
    g = torch.Generator().manual_seed(seed)
    chosen, rejected = (torch.randn(2, n_prompts, n, hidden, generator=g, dtype=torch.float64) for n in (1, 3))
    return (chosen - rejected).flatten(1, 2), torch.arange(n_prompts).repeat_interleave(3)


@pytest.fixture
def pairs():
    return make_pairs()


@pytest.fixture
def items(tokenizer, pairs):
    return PairTokenizer(tokenizer, 64, 64).training_items(pairs)


@pytest.fixture
def toy(tokenizer):
    model = build_model().requires_grad_(False)
    return Base(model, tokenizer, "toy", "toy-identity")


@pytest.fixture
def genies_dir():
    folder = SHARED / "genies"
    if not folder.is_dir():
        pytest.skip("GENIES data is not at ../shared/data/genies")
    return folder


@pytest.fixture(scope="session")
def pairs_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("bench") / "pairs.jsonl"
    rows = ({"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected} for p in make_pairs(8))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def here(monkeypatch):
    """Measure in this process instead of new ones: quicker, and with the checks of types and warnings."""
    from benchmarks import parity, processes, score, train

    def call(function, *arguments):
        # A program is __main__ while it runs, so that a job of its own could not be pickled.
        assert function.__module__ not in {m.__name__ for m in (parity, score, train)}
        return function(*arguments) | {"threads": torch.get_num_threads()}

    monkeypatch.setattr(processes, "in_own_process", call)


@pytest.fixture
def traceable(monkeypatch):
    """Adapted layers without the tests' checks of types and shapes, which torch.compile cannot trace."""
    monkeypatch.setattr(fused_lora, "fused_lora_linear", inspect.unwrap(fused_lora.fused_lora_linear))
    monkeypatch.setattr(fused_lora, "_is_untouched", inspect.unwrap(fused_lora._is_untouched))
    for name in ("forward", "_only_adapter"):
        monkeypatch.setattr(fused_lora.FusedLoraLinear, name, inspect.unwrap(getattr(fused_lora.FusedLoraLinear, name)))


def facts_of(run, model=None, column="logp"):
    """One column of a run's facts, of all models or of one, as a list."""
    rows = run.scores.responses
    return (rows if model is None else rows.filter(rows["model"] == model))[column].to_list()
