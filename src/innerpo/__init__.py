"""Preference optimisation on hidden states, and a measure of whether it generalises.

``import innerpo`` is light: a public name is imported when it is first used.
"""

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from innerpo.api import Loaded, combine, evaluate, generate, load, load_base, merge, push, report, run_config, train
    from innerpo.config.data import DataConfig
    from innerpo.config.evaluation import EvalConfig
    from innerpo.config.method import MethodConfig
    from innerpo.config.model import ModelConfig
    from innerpo.config.run import RunConfig, default_run
    from innerpo.config.training import TrainingConfig
    from innerpo.config.transform import TransformConfig
    from innerpo.errors import MachineError, UserError
    from innerpo.evaluation.over_runs import compare, table
    from innerpo.experiments.sweep import sweep
    from innerpo.experiments.tuning.tune import tune
    from innerpo.model.adapters import remove_adapter
    from innerpo.model.base import Base
    from innerpo.progress import reporting
    from innerpo.run import Run
    from innerpo.trl import InnerPOConfig, InnerPOTrainer

__version__ = "0.1.0"

logging.getLogger(__name__).addHandler(logging.NullHandler())  # silent unless the program listens

_PUBLIC = {
    # name -> the module that holds it
    "Base": "innerpo.model.base",
    "DataConfig": "innerpo.config.data",
    "EvalConfig": "innerpo.config.evaluation",
    "InnerPOConfig": "innerpo.trl",
    "InnerPOTrainer": "innerpo.trl",
    "Loaded": "innerpo.api",
    "MachineError": "innerpo.errors",
    "MethodConfig": "innerpo.config.method",
    "ModelConfig": "innerpo.config.model",
    "Run": "innerpo.run",
    "RunConfig": "innerpo.config.run",
    "TrainingConfig": "innerpo.config.training",
    "TransformConfig": "innerpo.config.transform",
    "UserError": "innerpo.errors",
    "combine": "innerpo.api",
    "compare": "innerpo.evaluation.over_runs",
    "default_run": "innerpo.config.run",
    "evaluate": "innerpo.api",
    "generate": "innerpo.api",
    "load": "innerpo.api",
    "load_base": "innerpo.api",
    "merge": "innerpo.api",
    "push": "innerpo.api",
    "remove_adapter": "innerpo.model.adapters",
    "report": "innerpo.api",
    "reporting": "innerpo.progress",
    "run_config": "innerpo.api",
    "sweep": "innerpo.experiments.sweep",
    "table": "innerpo.evaluation.over_runs",
    "train": "innerpo.api",
    "tune": "innerpo.experiments.tuning.tune",
}

__all__ = [
    "Base",
    "DataConfig",
    "EvalConfig",
    "InnerPOConfig",
    "InnerPOTrainer",
    "Loaded",
    "MachineError",
    "MethodConfig",
    "ModelConfig",
    "Run",
    "RunConfig",
    "TrainingConfig",
    "TransformConfig",
    "UserError",
    "__version__",
    "combine",
    "compare",
    "default_run",
    "evaluate",
    "generate",
    "load",
    "load_base",
    "merge",
    "push",
    "remove_adapter",
    "report",
    "reporting",
    "run_config",
    "sweep",
    "table",
    "train",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'innerpo' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
