"""What a method reads of the reference's states and found in them before training, as lines of the log."""

import logging

import torch

from innerpo.config.method import MethodConfig
from innerpo.methods.method import Method
from innerpo.methods.notes.notes import PairNotes

log = logging.getLogger(__name__)

MOST_WEIGHTS = 4
"""So many different weights of pairs are named; more are summed up."""


def log_unread(config: MethodConfig) -> None:
    """Log the options that were given to a method that reads no hidden states: they change the run's id and no more."""
    if unread := config.unread:
        given = ", ".join(f"method.{name}" for name in unread)
        log.warning(f"{given}: without effect, {config.name} reads no hidden states")


def log_fitted(method: Method, notes: PairNotes | None) -> None:
    """Log a method's directions, the notes on its pairs and its cue, where it has them."""
    _log_directions(method)
    _log_notes(notes)
    _log_cue(method)


def _log_directions(method: Method) -> None:
    """Log the accuracy and the weight of each layer's direction."""
    directions = method.directions
    if directions is None:
        return
    values = zip(method.layers, directions.accuracy.tolist(), directions.layer_weights.tolist(), strict=True)
    shown = ", ".join(f"{layer} (accuracy {accuracy:.2f}, weight {weight:.2f})" for layer, accuracy, weight in values)
    log.info(f"directions: {method.config.direction}, {method.config.site} of blocks {shown}")


def _log_cue(method: Method) -> None:
    """Log how many dimensions the cue has in each block."""
    if method.subspace is None:
        return
    ranks = (method.subspace.basis != 0.0).any(1).sum(1).tolist()
    shown = ", ".join(f"{layer} ({rank})" for layer, rank in zip(method.layers, ranks, strict=True))
    log.info(f"cue: {method.config.cue}, dimensions in blocks {shown}")


def _log_notes(notes: PairNotes | None) -> None:
    """Log what the probe says of the training pairs: how many it gets wrong is what residual and reweight live on."""
    if notes is None:
        return
    if notes.offset.any():
        wrong, size = float((notes.offset < 0).float().mean()), float(notes.offset.abs().mean())
        log.info(f"offsets: against the label in {wrong:.1%} of the pairs, mean size {size:.2f} logits")
    if notes.weight.min() < notes.weight.max():
        values, counts = torch.unique(notes.weight, return_counts=True)
        usual = counts.argmax()
        shares = zip(counts / counts.sum(), values / values[usual], strict=True)
        others = [f"{share:.1%} of the pairs weigh {size:.3g} times" for share, size in shares if size != 1.0]
        if len(others) <= MOST_WEIGHTS:
            log.info(f"weights: {', '.join(others)} the rest")
        else:
            least, middle, most = (float(notes.weight.quantile(q)) for q in (0.0, 0.5, 1.0))
            log.info(f"weights: from {least:.3g} to {most:.3g}, median {middle:.3g}")
