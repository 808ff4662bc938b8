"""Tiny random models of many families of transformers, from their configs, for the table of docs/models.md."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

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
