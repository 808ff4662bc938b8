"""A run's fitted directions and transform as a safetensors file beside its adapter."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from innerpo.errors import UserError
from innerpo.files import write_atomically
from innerpo.methods.inner_reward import InnerReward
from innerpo.methods.records import Directions
from innerpo.methods.transforms.transform import Transform

DIRECTIONS = "directions.safetensors"


def save_directions(path: Path, inner: InnerReward) -> None:
    """Write fitted directions and their transform as safetensors."""
    directions, transform = inner.directions, inner.transform
    tensors = {
        "w": directions.w,
        "scale": directions.scale,
        "layer_weights": directions.layer_weights,
        "accuracy": directions.accuracy,
        "token_spread": directions.token_spread,
        "layers": torch.tensor(inner.layers),
    }
    if directions.token_rms is not None:
        tensors["token_rms"] = directions.token_rms
    if transform.basis is not None:
        tensors["transform_basis"] = transform.basis
    header = {
        "transform": transform.name,
        "pool": inner.pool,
        "own": repr(directions.own),
        "site": inner.site,
    }
    write_atomically(path, lambda p: save_file({k: v.contiguous().cpu() for k, v in tensors.items()}, p, header))


def load_directions(folder: Path) -> InnerReward | None:
    """Return the fitted directions of a run, or None where it has none."""
    path = folder / DIRECTIONS
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata()
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        directions = Directions(
            found["w"],
            found["scale"],
            found["layer_weights"],
            found["accuracy"],
            found["token_spread"],
            float(header["own"]),
            found.get("token_rms"),
        )
        layers = tuple(int(i) for i in found["layers"])
        transform = Transform(header["transform"], found.get("transform_basis"))
        return InnerReward(layers, transform, directions, header["pool"], header["site"])
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path} is not a directions file of innerpo: {error}") from error
