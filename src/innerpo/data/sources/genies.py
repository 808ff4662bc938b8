"""GENIES (arXiv 2311.07723): ``distributions/<name>/{train,test}.json``, each item a prompt and scored responses."""

import json
import os
from pathlib import Path
from typing import Any

from innerpo.config.data import DataConfig
from innerpo.data.pairs import BadRows, PreferencePair
from innerpo.data.shifts import genies_names
from innerpo.data.sources import hub
from innerpo.data.sources.parse import BadRowError, is_empty, leave_out, make_pair
from innerpo.errors import UserError, near_matches

HUB_NAME = "wassname/genies_preferences"
LOCAL_HINT = "or give local data with data.genies_dir or INNERPO_GENIES_DIR"


def load(name: str, split: str, data: DataConfig, bad: BadRows) -> list[PreferencePair]:
    """Return all best/worse pairs of a distribution, from a local folder or, without one, from the Hub."""
    folder = genies_folder(data)
    if folder is None:
        if name not in genies_names():
            raise UserError(f"unknown data set {name!r}{near_matches(name, genies_names())}")
        return hub.load_from(HUB_NAME, name, None, split, data, bad, source=f"genies:{name}", hint=LOCAL_HINT)
    path = folder / name / f"{split}.json"
    if not (folder / name).is_dir():
        there = [p.name for p in folder.iterdir() if p.is_dir()]
        known = "GENIES has it, but " if name in genies_names() else ""
        raise UserError(f"unknown data set {name!r}: {known}it is not in {folder}{near_matches(name, there)}")
    return [pair for i, item in enumerate(_items(path)) for pair in _pairs(item, i, path, name, split, data, bad)]


def genies_folder(data: DataConfig) -> Path | None:
    """Return the folder that holds the distributions, if one is named in the config or the environment."""
    given = data.genies_dir or os.environ.get("INNERPO_GENIES_DIR")
    if not given:
        return None
    folder = Path(given).expanduser()
    if not folder.is_dir():
        raise UserError(f"the GENIES folder {folder} does not exist (data.genies_dir or INNERPO_GENIES_DIR)")
    return folder / "distributions" if (folder / "distributions").is_dir() else folder


def _items(path: Path) -> list[Any]:
    try:
        items = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (OSError, ValueError) as e:
        raise UserError(f"{path} cannot be read as JSON: {e}") from None
    if not isinstance(items, list) or not items:
        raise UserError(f"{path} has no rows")
    return items


def _pairs(
    item: Any, row: int, path: Path, name: str, split: str, data: DataConfig, bad: BadRows
) -> list[PreferencePair]:
    """Return the best response against every strictly worse one, in the order of the file."""
    where, pairs = f"{path} item {row}", list[PreferencePair]()
    try:
        prompt, responses = _checked(item)
    except BadRowError as e:
        leave_out(where, str(e), data.on_bad_row, bad)
        return []
    best = max(responses, key=lambda text: responses[text])
    for i, (text, score) in enumerate(responses.items()):
        # The published files hold a few empty responses. An empty completion has no score, so they are left out and
        # counted, independent of on_bad_row.
        if is_empty(text) and (text == best or score < responses[best]):
            bad.reasons.append(f"{where}: response {i} (score {score:g}) is empty")
        elif score < responses[best] and not is_empty(best):
            pair_id = f"genies:{name}/{split}/{row}#{i}"
            try:
                pairs.append(make_pair(prompt, best, text, id=pair_id, source=f"genies:{name}", split=split))
            except BadRowError as e:
                leave_out(f"{where}, response {i}", str(e), data.on_bad_row, bad)
    return pairs


def _checked(item: Any) -> tuple[str, dict[str, float]]:
    """Return an item's prompt and scored responses; raise BadRowError if it is malformed."""
    if not isinstance(item, dict) or not isinstance(item.get("prompt"), str):
        raise BadRowError("has no prompt as text")
    responses = item.get("responses")
    if not isinstance(responses, dict) or len(responses) < 2:
        raise BadRowError("has fewer than two responses")
    if not all(isinstance(score, (int, float)) for score in responses.values()):
        raise BadRowError("has a score that is not a number")
    if min(responses.values()) == max(responses.values()):
        raise BadRowError("no response is better than another")
    return item["prompt"], responses
