"""Before a policy is scored: is its adapter applied at all, and were its tokens those of the base?"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from innerpo.data.batching.batch import make_batch
from innerpo.data.batching.row_plan import Layout
from innerpo.data.tokens import PromptItem
from innerpo.errors import UserError, one_line
from innerpo.model.base import Base, reference_mode
from innerpo.model.forward.outputs import sequence_outputs
from innerpo.model.strength import is_noop

log = logging.getLogger(__name__)

PROMPTS_TRIED = 4
TEXTS_TRIED = 32


@torch.no_grad()
def check_applied(policy: Any, base: Base, items: Sequence[PromptItem], layout: Layout, what: str) -> None:
    """Raise UserError where policy and base give the same log-probabilities on a few prompts, to the last bit.

    An adapter whose weights make its update zero is a no-op by right: then the log says so. ``what`` names the policy.
    """
    if policy is base.model:
        log.info(f"{what} trains nothing: its policy is its base")
        return
    few = sorted(items, key=lambda item: item.n_tokens)[:PROMPTS_TRIED]
    if not few:
        return
    batch = make_batch(few, layout, base.pad_id).to(base.device)
    reference_model = policy if hasattr(policy, "disable_adapter") else base.model
    policy.eval()
    with reference_mode(reference_model):
        before = sequence_outputs(reference_model, batch).logps
    after = sequence_outputs(policy, batch).logps
    if not torch.equal(before, after):
        return
    if is_noop(policy):
        log.info(f"{what}: the adapter's update is zero, so its policy is its base")
        return
    raise UserError(
        f"{what} is not applied: on {len(few)} prompts its log-probabilities equal the base's to the last bit, though "
        f"its weights are not zero; either it is switched off or its update is below what {base.model.dtype} resolves"
    )


def check_tokenizer(folder: Path, base: Base, texts: Sequence[str]) -> None:
    """Raise UserError where the tokenizer saved beside an adapter makes other tokens of texts than the base's does.

    A folder without a tokenizer passes: its adapter is meant for the base's own.
    """
    if not (folder / "tokenizer.json").is_file() and not (folder / "tokenizer_config.json").is_file():
        return
    from transformers import AutoTokenizer

    try:
        own = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = one_line(error, 200)
        raise UserError(f"the tokenizer in {folder} cannot be read: {reason}") from error
    if own.eos_token_id != base.tokenizer.eos_token_id:
        raise UserError(
            f"the tokenizer in {folder} ends a text with token {own.eos_token_id} ({own.eos_token!r}), that of "
            f"{base.name!r} with {base.tokenizer.eos_token_id} ({base.tokenizer.eos_token!r}); they must agree"
        )
    for text in texts[:TEXTS_TRIED]:
        ours, theirs = base.tokenizer(text)["input_ids"], own(text)["input_ids"]
        if ours != theirs:
            at = next(
                (i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs))
            )
            raise UserError(
                f"the tokenizer in {folder} is not that of the base model {base.name!r}: {text[:40]!r} is "
                f"{len(theirs)} tokens there and {len(ours)} here, the first to differ is number {at}"
            )
