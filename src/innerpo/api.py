"""InnerPO from Python: load a base model once, train and evaluate on it as often as you like.

Thin functions over ``innerpo.run``; options are the fields of ``RunConfig`` by their dotted names.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from innerpo import run
from innerpo.capability import with_capability
from innerpo.config.combined import Combined
from innerpo.config.model import Dtype, ModelConfig
from innerpo.config.run import RunConfig, default_run
from innerpo.config.yaml import nested, overlay, trusted_config
from innerpo.errors import UserError
from innerpo.evaluation.generate import GenerationRequest, generate_run
from innerpo.evaluation.generations import Generation
from innerpo.files import cache_root, existing_folder
from innerpo.methods.inner_reward import InnerReward
from innerpo.methods.records import Directions
from innerpo.methods.transforms.transform import Transform
from innerpo.model import loading
from innerpo.model.adapters import check_bare
from innerpo.model.base import Base
from innerpo.model.sampling import Sampling
from innerpo.run import Run
from innerpo.sharing.fetch import folder_of
from innerpo.sharing.merge import Merged, merge_run
from innerpo.sharing.push import Pushed, push_run
from innerpo.training import artifacts
from innerpo.training.combine import Arithmetic, combine_adapters
from innerpo.training.directions_file import load_directions
from innerpo.training.record import check_base


def load_base(name: str = "smollm2-135m", *, cache_dir: Path | None = None, **options: Any) -> Base:
    """Load a base model and its tokenizer.

    ``name`` is a Hub name, a local folder or ``smollm2-135m``; ``options`` are fields of ``ModelConfig`` (``dtype``,
    ``attention``, ``load_in_4bit``, ...). Raises UserError where the model cannot be loaded.
    """
    config = overlay(ModelConfig(base_model=name), options, "load_base")
    return loading.load_base(config, cache_root(cache_dir))


def run_config(
    method: str = "innerpo", *, base: Base | None = None, data: str | None = None, **options: Any
) -> RunConfig:
    """Return a method's defaults with options by their dotted names, e.g. ``**{"training.max_steps": 20}``.

    ``data`` is the data set to train on. Raises UserError for a name that does not exist or a value of another type.
    """
    config = overlay(default_run(method), nested(options), "options")
    if data is not None:
        config = replace(config, data=replace(config.data, dataset=data))
    return config if base is None else replace(config, model=loading.as_loaded(config.model, base))


def train(
    base: Base | None = None, method: str | RunConfig = "innerpo", *, data: str | None = None, **options: Any
) -> Run:
    """Train a method, save the run's folder, and score it beside its base model.

    ``base`` is shared: the adapter is taken off at the end, and the next run on it loads nothing again and computes no
    reference output twice. ``method`` is a method's name (``innerpo-supr``) or a whole ``RunConfig``. Without ``base``,
    the model that the config names is loaded.

    Raises UserError for what was asked for wrongly, MachineError where the machine fails (memory, disk).
    """
    return with_capability(run.train(_config(base, method, data, options), base), base)


def evaluate(base: Base | None, folder: str | Path, **options: Any) -> Run:
    """Score a run's folder, or any peft adapter, beside its base model.

    Options are those of the run itself, changed by dotted names, e.g. ``**{"eval.oos_dataset": "arc_easy"}``. Scores
    on other data sets than the run's own go to a folder beneath it. Raises UserError where the adapter belongs to
    another base model.
    """
    path = existing_folder(folder)
    config = _own_config(path, base, options)
    return with_capability(run.evaluate(path, config, base), base)


def report(runs: str | Path | Sequence[str | Path], out: str | Path = "report.html", *, texts: bool = True) -> Path:
    """Write one HTML file about scored runs, which opens from disk and needs no network; return its path.

    ``runs`` are folders of runs or patterns (``outputs/dpo_math_seed*``). ``texts``: with the texts of single examples,
    read again from their data sets, and those that models wrote. A folder that cannot be read is named in the page, the
    others are shown. Raises UserError where none can be read.
    """
    from innerpo.evaluation.report.write import report_runs

    return report_runs(runs, out, texts).path


def generate(
    folder: str | Path,
    *,
    base: Base | None = None,
    prompts: int = 20,
    set: str = "test",
    dataset: str | None = None,
    strength: float = 1.0,
    max_new_tokens: int = 128,
    sample: bool = False,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
    **options: Any,
) -> tuple[Generation, ...]:
    """Write texts of a run (or of any peft adapter) and of its base to the same prompts; return them.

    ``prompts`` counts them: a fixed choice from the run's evaluation set ``set``, or from the test split of a data set
    named by ``dataset``. ``strength`` is the factor on the adapter's update. Texts are greedy, or drawn where
    ``sample`` is set. ``options`` are those of the run, by dotted names. The texts are kept in ``generations.jsonl``
    with the scores; base and policy take turns. Raises UserError where the adapter belongs to another base model.
    """
    path = existing_folder(folder)
    config = _own_config(path, base, options)
    sampling = Sampling(max_new_tokens, sample, temperature, top_p, seed)
    request = GenerationRequest(prompts, set, dataset, strength, sampling)
    return generate_run(path, config, request, base).texts


def combine(
    folders: Sequence[str | Path],
    weights: Sequence[float] = (),
    out: str | Path = "outputs/combined",
    *,
    lines: float = 1.0,
    blocks: int = 0,
    rank: int = 0,
    energy: float = 1.0,
) -> Combined:
    """Write a weighted sum of LoRA adapters as one adapter into a new folder; return its record. Nothing is trained.

    ``folders`` are runs or plain LoRA adapters on one base model. Without ``weights``: their mean (a soup). The sum is
    exact, its rank the sum of ranks. ``lines`` is LiNeS's factor on the first of ``blocks`` blocks; ``rank`` and
    ``energy`` keep the top singular directions of each module. Raises UserError for adapters that cannot be added.
    """
    arithmetic = Arithmetic(lines, blocks, rank, energy)
    return combine_adapters([Path(folder) for folder in folders], weights, Path(out), arithmetic)


def merge(folder: str | Path, out: str | Path, *, dtype: Dtype = "auto", trust_remote_code: bool = False) -> Merged:
    """Write a run's base with its adapter added as a model of its own, which plain transformers loads.

    Merged in float32 and rounded once to ``dtype`` (float32, bfloat16, float16; auto is the type in which the base is
    stored). Raises UserError for a full fine-tune, a base in 4 bits, a base with other weights than the run's, and one
    that brings code of its own unless ``trust_remote_code`` allows it.
    """
    path = existing_folder(folder)
    return merge_run(path, trusted_config(path, trust_remote_code), Path(out), dtype)


def push(
    folder: str | Path,
    repo: str,
    *,
    private: bool = False,
    revision: str | None = None,
    merged: bool = False,
    dry_run: bool = False,
    trust_remote_code: bool = False,
) -> Pushed:
    """Upload a run to the repository ``owner/name`` of the Hub, in one commit.

    Adapter, directions with their transform, config, record, scores, a card with tables, and ``.eval_results``, without
    paths of this machine. What is uploaded, and what of an earlier push is deleted, is logged first; with ``dry_run``
    that is all. ``private`` makes a new repository private. ``revision`` is a branch; ``merged`` uploads the merged
    model in place of the adapter. Raises UserError without a token, where the Hub refuses, where ``private`` is asked
    for and the repository is public, and where it holds a run or a model that no push left there.
    """
    path = existing_folder(folder)
    options: dict[str, Any] = {"private": private, "revision": revision, "merged": merged, "dry_run": dry_run}
    return push_run(path, trusted_config(path, trust_remote_code or not merged), repo, **options)


@dataclass(frozen=True)
class Loaded:
    """A run in memory: its policy, the base it was trained on, its directions and its config."""

    policy: Any
    """The base model with the run's adapter; the fully fine-tuned model; or the base model itself (``probe``)."""
    base: Base
    """The base model and its tokenizer."""
    inner_reward: InnerReward | None
    """The fitted directions, with the layers, transform, pooling and site they belong to; None where there are none."""
    config: RunConfig
    """The run's configuration."""
    folder: Path
    """Folder of the run: of one from the Hub, its snapshot in the Hub's cache."""

    @property
    def tokenizer(self) -> Any:
        """The base model's tokenizer."""
        return self.base.tokenizer

    @property
    def directions(self) -> Directions | None:
        """The fitted directions, one for each layer of ``inner_reward.layers``."""
        return None if self.inner_reward is None else self.inner_reward.directions

    @property
    def transform(self) -> Transform | None:
        """The transform that states go through before they meet the directions."""
        return None if self.inner_reward is None else self.inner_reward.transform


def load(
    run: str | Path, base: Base | None = None, *, revision: str | None = None, trust_remote_code: bool = False
) -> Loaded:
    """Load a run's adapter, or any peft adapter, on its base model; ``remove_adapter`` takes it off again.

    ``run`` is a folder, or a repository ``owner/name`` of the Hub (``revision``: of which branch or commit). Without
    ``base``, the base model that the run names is loaded. Raises UserError where it has other weights than the run's,
    and where the run's config asks to run code that comes with a model, unless ``trust_remote_code`` allows it.
    """
    path = folder_of(run, revision)
    config = trusted_config(path, trust_remote_code or base is not None)
    artifacts.check_adapter(path)
    base = base or loading.load_base(config.model, cache_root(config.data.cache_dir))
    check_bare(base)
    check_base(path, base)
    return Loaded(artifacts.load_policy(base, path), base, load_directions(path), config, path)


def _own_config(folder: Path, base: Base | None, options: dict[str, Any]) -> RunConfig:
    """The config of a run's folder, changed by options, and on a base that is in memory where there is one."""
    trusted = base is not None or options.get("model.trust_remote_code") is True
    config = overlay(trusted_config(folder, trusted), nested(options), "options")
    if base is None:
        return config
    model = loading.as_loaded(config.model, base)  # by whatever name: who scores compares the weights
    return replace(config, model=replace(model, base_model=config.model.base_model))


def _config(base: Base | None, method: str | RunConfig, data: str | None, options: dict[str, Any]) -> RunConfig:
    if isinstance(method, str):
        return run_config(method, base=base, data=data, **options)
    if data is not None or options:
        raise UserError("a RunConfig holds all options already; change it with dataclasses.replace")
    return method if base is None else replace(method, model=loading.as_loaded(method.model, base))
