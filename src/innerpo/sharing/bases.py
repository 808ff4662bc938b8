"""What a base model is called outside this machine."""

from pathlib import Path

from innerpo.training.card import HUB_IDS


def is_local(name: str) -> bool:
    """Whether a base model's name is a folder of this machine."""
    path = Path(name).expanduser()
    return path.is_absolute() or name.startswith((".", "~")) or path.is_dir()


def hub_id(name: str) -> str:
    """Return the Hub name of a base model; "" for a local folder, which has none."""
    return HUB_IDS.get(name, "" if is_local(name) else name)


def name_of_base(name: str) -> str:
    """Return a base model's name as others may read it: of a local folder its last part."""
    return Path(name).expanduser().resolve().name if is_local(name) else name
