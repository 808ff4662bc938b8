"""The configuration of a run, of one record a section. The text below a field is its help on the command line."""

import dataclasses
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from innerpo.config.data import DataConfig
from innerpo.config.evaluation import EvalConfig
from innerpo.config.identity import NOTHING, RUN, SCORES, run_id, settings
from innerpo.config.method import MethodConfig, default_method, defaults_like
from innerpo.config.model import ModelConfig
from innerpo.config.training import TrainingConfig
from innerpo.errors import FIELDS, UserError
from innerpo.registry import METHODS


@dataclass(frozen=True)
class RunConfig:
    """One training run and its scores, which depend on nothing but this record and the data.

    Its sections are ``method``, ``model``, ``data``, ``training`` and ``eval``.
    """

    method: MethodConfig = field(default_factory=MethodConfig, metadata=RUN)
    model: ModelConfig = field(default_factory=ModelConfig, metadata=RUN)
    data: DataConfig = field(default_factory=DataConfig, metadata=RUN)
    training: TrainingConfig = field(default_factory=TrainingConfig, metadata=RUN)
    eval: EvalConfig = field(default_factory=EvalConfig, metadata=SCORES)
    output_dir: Path = field(default=Path("outputs"), metadata=NOTHING)
    """Folder of runs; this one lands in <method>-<transform>_<dataset>_seed<seed> beneath it (+<id> off defaults)."""

    def __post_init__(self) -> None:
        if str(self.output_dir).startswith("~"):  # which no shell has read: in a file, or behind an equals sign
            object.__setattr__(self, "output_dir", self.output_dir.expanduser())
        if self.eval.steer and not (self.method.reads_states and self.method.site == "residual"):
            what = f"reads {self.method.site!r}" if self.method.reads_states else "has no directions"
            raise UserError(f"eval.steer moves the residual stream along a run's directions; {self.method.name} {what}")

    @property
    def method_label(self) -> str:
        """``innerpo-none``; ``dpo`` for a method that reads no states."""
        name = self.method.name
        return f"{name}-{self.method.transform}" if defaults_like(name).reads_states else name

    @property
    def run_name(self) -> str:
        """``innerpo-none_math_seed1`` with the method's defaults, else ``innerpo-none_math_seed1+3fa9c1d2``.

        Behind the plus stands the beginning of the run's id. A data set whose name is longer than what the plain name
        shows of it (a file, ``owner/name``) has it always, so that no two runs that differ share a folder.
        """
        dataset = _short(self.data.dataset)
        plain = f"{self.method_label}_{dataset}_seed{self.training.seed}"
        whole = dataset == self.data.dataset.replace(":", "-")
        return plain if whole and run_id(self) == self._default_id() else f"{plain}+{run_id(self)[:8]}"

    @property
    def run_dir(self) -> Path:
        """Folder in which the run lands."""
        return self.output_dir / self.run_name

    def _default_id(self) -> str:
        """Id of the run of this method, data set and seed with every other field at the method's default."""
        if self.method.name not in METHODS:
            return ""
        default = default_run(self.method_label)
        data, training = (
            replace(default.data, dataset=self.data.dataset),
            replace(default.training, seed=self.training.seed),
        )
        return run_id(replace(default, data=data, training=training))


def _short(dataset: str) -> str:
    """Return a data set's name as a part of a folder's name: without its folders or owner and its suffix."""
    path = Path(dataset)
    name = path.stem if path.suffix in (".jsonl", ".json", ".parquet", ".csv") else path.name
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in name)


def default_run(method: str) -> RunConfig:
    """Return the defaults of a method by its name (``default_method`` says which there are)."""
    found = default_method(method)
    return RunConfig(method=found, data=DataConfig(**METHODS[found.name].get("data", {})))


def to_dict(config: Any) -> dict[str, Any]:
    """Return a config as plain JSON types, whole, so that a saved run does not depend on later defaults."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        if isinstance(value, Path):
            return str(value)
        return list(value) if isinstance(value, tuple) else value

    result: dict[str, Any] = plain(config)
    return result


FIELDS.update(setting.name for setting in settings(RunConfig()))
