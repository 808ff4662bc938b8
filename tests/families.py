"""Tiny random models of many families of transformers, and what InnerPO can do with each: the table of docs/models.md.

``python tests/families.py`` measures all families and writes the page anew (about two minutes).
"""

import json
import math
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
STEPS = 3
# Share of a tiny model's parameters from which a weight without adapter stands in the table.
SHARE = 0.03
# Reasons as the program gives them, to words without numbers.
REASONS = {
    r"compared .* both ways: log-probs differ by .*": "numbers differ: positions are counted in the row (ALiBi)",
    r"compared .* the model refuses such a batch: .*": "it takes no mask for each query",
    r".* is random in training mode .*modules: [\w.]*?(\w+)\).*": r"random in training mode (`\1`)",
    r"^the model has ": "",
    r" \(window_size=\d+\), which may count positions in the row": "",
}
SMALL = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}
MIXTURE = {"moe_intermediate_size": 16, "num_experts_per_tok": 2}
LATENT = {"kv_lora_rank": 16, "q_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8}
LATENT = LATENT | MIXTURE | {"num_key_value_heads": 4, "n_routed_experts": 4, "first_k_dense_replace": 1}
WINDOW = {"sliding_window": 6}
ALTERNATING = WINDOW | {"layer_types": ["sliding_attention", "full_attention"] * 2}
OLD_NAMES = {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 256, "rotary_dim": 8}
RECURRENT = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_d_ssm": 64}


@dataclass(frozen=True)
class Family:
    """A family: its model_type in transformers, what its tiny config needs besides SMALL, and names it goes without."""

    model_type: str
    changes: dict[str, Any] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    label: str = ""

    @property
    def name(self) -> str:
        """Name in the table."""
        return self.label or self.model_type

    def build(self, **changes: Any) -> nn.Module:
        """Return a tiny model with random weights large enough that every part changes the output."""
        from transformers import AutoConfig, AutoModelForCausalLM

        torch.manual_seed(0)
        options = {k: v for k, v in SMALL.items() if k not in self.without}
        config = AutoConfig.for_model(self.model_type, **(options | self.changes | changes))
        model: nn.Module = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for name, p in model.named_parameters():
                if p.ndim >= 2 and "norm" not in name and "conv" not in name:
                    p.normal_(0.0, 0.2)
        return model.eval()


# The comment names the mechanism for which a family is in the fast suite.
FAST = (
    Family("llama"),  # rotary positions
    Family("gemma2", ALTERNATING),  # two kinds of layer, soft-capped logits
    Family("gpt2", OLD_NAMES),  # learned positions, Conv1D in place of Linear
    Family(
        "gpt_neo", {"num_layers": 4, "num_heads": 4, "window_size": 16, "attention_types": [[["global", "local"], 2]]}
    ),
    Family("opt", {"word_embed_proj_dim": 32, "ffn_dim": 48}),  # dropout as a float
    Family("bloom", {"n_layer": 4, "n_head": 4}, ("max_position_embeddings",)),  # ALiBi
    Family("gpt_oss", ALTERNATING | {"num_local_experts": 4, "num_experts_per_tok": 2}),  # experts, attention sinks
    Family("mamba", {"state_size": 4}, ("max_position_embeddings",)),  # recurrent
    Family("llama4_text", {"num_local_experts": 4, "intermediate_size_mlp": 48, "attention_chunk_size": 16}),  # chunks
    Family(
        "gemma3n_text",
        {
            "num_kv_shared_layers": 0,
            "hidden_size_per_layer_input": 8,
            "vocab_size_per_layer_input": 320,
            "laurel_rank": 4,
            **ALTERNATING,
            "activation_sparsity_pattern": [0.0] * 4,
        },
    ),
)
SLOW = (
    Family("mistral", WINDOW),
    Family("ministral", WINDOW),
    Family("mixtral", {"num_local_experts": 4}),
    Family("qwen2"),
    Family("qwen3"),
    Family("qwen2_moe", MIXTURE | {"num_experts": 4, "shared_expert_intermediate_size": 16}),
    Family("qwen3_moe", MIXTURE | {"num_experts": 4}),
    Family(
        "qwen3_next",
        MIXTURE
        | {
            "num_experts": 4,
            "shared_expert_intermediate_size": 16,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
        },
    ),
    Family("gemma"),
    Family("gemma3_text", ALTERNATING),
    Family("gemma4_text", ALTERNATING | {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 320}),
    Family("phi"),
    Family("phi3", WINDOW),
    Family("phimoe", {"num_local_experts": 4}),
    Family("gpt_neox"),
    Family("gptj", OLD_NAMES),
    Family("codegen", OLD_NAMES),
    Family("gpt_bigcode", OLD_NAMES),
    Family("falcon", without=("head_dim", "intermediate_size", "num_key_value_heads")),
    Family("falcon", {"alibi": True}, ("head_dim", "intermediate_size", "num_key_value_heads"), "falcon (ALiBi)"),
    Family("falcon_h1", RECURRENT),
    Family("mpt", {"d_model": 32, "n_layers": 4, "n_heads": 4, "max_seq_len": 256}),
    Family("starcoder2", WINDOW),
    Family("stablelm"),
    Family("cohere"),
    Family("cohere2", ALTERNATING),
    Family("olmo"),
    Family("olmo2"),
    Family("olmo3", ALTERNATING),
    Family("olmoe", {"num_experts": 4, "num_experts_per_tok": 2}),
    Family("granite"),
    Family("granitemoe", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    Family("smollm3"),
    Family("xglm", {"d_model": 32, "ffn_dim": 48, "num_layers": 4, "attention_heads": 4}),
    Family("biogpt"),
    Family("persimmon"),
    Family("nemotron"),
    Family("glm"),
    Family("glm4"),
    Family("glm4_moe", MIXTURE | {"n_routed_experts": 4}),
    Family("ernie4_5"),
    Family("exaone4", ALTERNATING),
    Family("deepseek_v2", LATENT, ("head_dim",)),
    Family("deepseek_v3", LATENT | {"n_group": 1, "topk_group": 1}, ("head_dim",)),
    Family("bamba", RECURRENT | {"attn_layer_indices": [1, 3]}),
    Family(
        "jamba",
        {"attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2, "mamba_d_state": 4, "mamba_dt_rank": 4},
    ),
    Family("mamba2", {"num_heads": 4, "head_dim": 16, "state_size": 8, "n_groups": 1}),
    Family("recurrent_gemma", {"lru_width": 32, "attention_window_size": 6}),
    Family("minimax", {"num_local_experts": 4}),
    Family("lfm2", {"layer_types": ["conv", "full_attention"] * 2}),
    Family("helium"),
    Family("seed_oss"),
    Family("arcee"),
    Family("hunyuan_v1_dense"),
)


@dataclass(frozen=True)
class Measured:
    """What a family can do, and the numbers that a test judges.

    ``one_row`` and ``concatenated`` are the largest differences (nats) of a response's summed log-probability from the
    model's own forward pass on that response alone; ``reloaded`` is that of the trained policy after it was saved and
    loaded, ``removed`` that of the base after the adapter was taken off. ``outputs`` are the mean DPO losses of the
    optimiser steps. A family that is refused has its ``reason`` alone.
    """

    family: Family
    layout: str
    reason: str
    site: str = ""
    frozen: tuple[str, ...] = ()
    one_row: float = math.nan
    concatenated: float = math.nan
    reloaded: float = math.nan
    removed: float = math.nan
    outputs: tuple[float, ...] = ()
    drift: float = math.nan
    gradient_norms: tuple[float, ...] = ()

    def row(self) -> str:
        """Return the family's line of the table."""
        why = "" if self.layout == "one_row" else self.reason
        for pattern, words in REASONS.items():
            why = re.sub(pattern, words, why)
        states = {"residual": "yes", "": ""}.get(self.site, f"no; `{self.site}` and other sites inside blocks")
        frozen = ", ".join(f"`{name}`" for name in self.frozen)
        return f"| `{self.family.name}` | {self.layout} | {why} | {states} | {frozen} |"


def measure(family: Family, folder: Path) -> Measured:
    """Choose a layout, compare log-probabilities with the plain model's, and train an adapter on all linear maps."""
    from conftest import build_tokenizer, make_pairs
    from innerpo.data.batching.batch import make_batch
    from innerpo.data.tokens import PairTokenizer
    from innerpo.errors import UserError
    from innerpo.model.base import Base
    from innerpo.model.forward.layout import choose_layout
    from innerpo.model.forward.outputs import StateRequest, StateShapeError, sequence_outputs

    try:
        base = Base(family.build(), build_tokenizer(), family.name, family.name)
    except UserError as error:
        return Measured(family, "refused", str(error))
    items = PairTokenizer(base.tokenizer, 64, 64).training_items(make_pairs(8))
    choice = choose_layout(base.model, items, 0)
    alone, differences = one_at_a_time(base.model, items), {}
    with torch.no_grad():
        for layout in {"concatenated", choice.layout}:
            found = sequence_outputs(base.model, make_batch(items, layout, 0)).logps
            differences[layout] = float((found - alone).abs().max())
        try:
            sequence_outputs(base.model, make_batch(items[:2], "concatenated", 0), StateRequest((1,)))
            site = "residual"
        except StateShapeError:
            site = "mlp_out"
    return replace(train(base, items, site, folder, Measured(family, choice.layout, choice.reason)), **differences)


def train(base: Any, items: Sequence[Any], site: str, folder: Path, measured: Measured) -> Measured:
    """Add what a short training with states shows."""
    from innerpo.config.run import default_run
    from innerpo.data.batching.batch import make_batch
    from innerpo.model.adapters import load_adapter, remove_adapter
    from innerpo.model.coverage import weights_without_adapter
    from innerpo.model.forward.outputs import sequence_outputs
    from innerpo.training.prepare import adapted, prepare_items
    from innerpo.training.train import train_policy

    config = default_run("innerpo")
    config = replace(
        config,
        method=replace(config.method, layers="1,2", site=site),
        model=replace(config.model, lora_r=4),
        data=replace(config.data, batch_size=len(items), cache_dir=folder / "cache"),
        training=replace(config.training, lr=5e-3, warmup=0.0, max_steps=STEPS, save_steps=0, log_steps=1),
        output_dir=folder,
    )
    config.run_dir.mkdir(parents=True)
    batch = make_batch(items, "concatenated", 0)

    @torch.no_grad()
    def logps(model: nn.Module) -> torch.Tensor:
        return sequence_outputs(model.eval(), batch).logps

    untrained = logps(base.model)
    prepared = prepare_items(config, base, items)
    with adapted(prepared, config) as (policy, method):
        shares = weights_without_adapter(policy)
        train_policy(policy, method, prepared.pairs, config)
        trained = logps(policy)
        policy.save_pretrained(folder / "adapter")
    policy = load_adapter(base, folder / "adapter")
    reloaded = logps(policy)
    remove_adapter(base, policy)
    lines = [json.loads(line) for line in (config.run_dir / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss/output" in line]
    frozen: dict[str, float] = {}
    for name, share in shares.items():
        module = re.sub(r"^.*\.\*\.|\.(gate|up|down|gate_up)_proj(\.weight|_bias)?$|\.weight$", "", name)
        frozen[module] = frozen.get(module, 0.0) + share
    return replace(
        measured,
        site=site,
        frozen=tuple(sorted(name for name, share in frozen.items() if share > SHARE)),
        reloaded=float((reloaded - trained).abs().max()),
        removed=float((logps(base.model) - untrained).abs().max()),
        outputs=tuple(line["loss/output"] for line in steps),
        drift=steps[0]["loss/drift"],
        gradient_norms=tuple(line["grad_norm"] for line in steps),
    )


@torch.no_grad()
def one_at_a_time(model: nn.Module, items: Sequence[Any]) -> torch.Tensor:
    """Return the summed log-probability of each response by the model's own forward pass on it alone, unpadded."""
    found = []
    for ids, n in ((torch.tensor([[*i.prompt, *r]]), len(r)) for i in items for r in i.responses):
        logps = model(input_ids=ids, use_cache=False).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])
        found.append(logps[-n:].sum())
    return torch.stack(found)


HEAD = """# Model families

Which families of transformers InnerPO trains and scores, and how. `python tests/families.py` writes this page from tiny
random models, and a test fails when it is out of date. For each family that is not refused tests check, in float32:

* log-probabilities of responses are those of the model's own forward pass on each response alone (1e-4 nats);
* with a new LoRA adapter on all linear modules and in training mode, the first step's DPO loss is log 2 and drift is 0;
* the loss then falls, and gradients are finite;
* the saved adapter gives the same numbers when it is loaded, and the base without it is bit-identical to before.

The columns:

* **layout**: what `data.layout=auto` chooses. `one_row` runs a prompt once with all its responses, `concatenated` runs
  one response per row. The numbers are the same; `concatenated` computes each prompt once per response.
* **residual stream**: whether a block's output is one vector per token, as methods that read hidden states need.
* **no adapter**: large weights that peft leaves frozen with `model.target_modules=all-linear`. A run logs them.

Other families are tested when they are loaded: InnerPO compares the layouts on the run's own data, and refuses a model
that is random in training mode. Vision-language models (Gemma 3, Llava, Qwen2.5-VL, Mistral 3, Llama 4, SmolVLM) are
trained and scored on text, with adapters in the language model only.

"""
COLUMNS = ("family (`model_type`)", "layout", "why not one row", "residual stream", "no adapter")


def page(rows: Sequence[str]) -> str:
    """Return the text of docs/models.md."""
    lines = [
        f"| {' | '.join(COLUMNS)} |",
        f"|{' --- |' * len(COLUMNS)}",
        *sorted(rows, key=lambda row: row.split("`")[1]),
    ]
    return HEAD + "\n".join(lines) + "\n"


def main() -> int:
    """Write the page."""
    rows = []
    for family in (*FAST, *SLOW):
        with tempfile.TemporaryDirectory() as folder:
            found = measure(family, Path(folder))
        print(found, file=sys.stderr, flush=True)
        rows.append(found.row())
    PAGE.write_text(page(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
