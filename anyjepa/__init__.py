"""anyjepa: pre-train an encoder on unlabelled data of any kind, see whether it is any good, and take it away.

The words are those of the command line: `train`, `load`, `inspect`, `compare`, `sweep`, `evaluate`, `embed`,
`export`, `push`, `import_checkpoint`, `plan`, `report`, `look`, `pack`; `health` holds the label-free
measures; `Encoder` is any recipe in scikit-learn's manner, `TableEncoder` one for tables of mixed columns,
`Planner` finds actions. Importing anyjepa has no side effects and loads no torch: each name is loaded when
first used.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_WHERE = {
    "train": ("anyjepa.engine.train", "train"),
    "Settings": ("anyjepa.engine.train", "Settings"),
    "load": ("anyjepa.engine.run", "load"),
    "embed": ("anyjepa.engine.embedding", "embed"),
    "export": ("anyjepa.engine.takeaway", "export"),
    "push": ("anyjepa.engine.hub", "push"),
    "import_checkpoint": ("anyjepa.engine.importing", "import_checkpoint"),
    "inspect": ("anyjepa.evaluation.inspection", "inspect"),
    "compare": ("anyjepa.evaluation.comparison", "compare"),
    "sweep": ("anyjepa.evaluation.sweeping", "sweep"),
    "evaluate": ("anyjepa.evaluation.scores", "evaluate"),
    "plan": ("anyjepa.evaluation.planning", "plan"),
    "Planner": ("anyjepa.evaluation.planning", "Planner"),
    "CrossEntropy": ("anyjepa.core.planning", "CrossEntropy"),
    "flow": ("anyjepa.evaluation.flow", "flow"),
    "recommend": ("anyjepa.evaluation.recommending", "recommend"),
    "FineTuning": ("anyjepa.evaluation.finetuning", "FineTuning"),
    "report": ("anyjepa.reports.gather", "report"),
    "pack": ("anyjepa.engine.packing", "pack"),
    "look": ("anyjepa.reports.look", "look"),
    "Encoder": ("anyjepa.engine.estimator", "Encoder"),
    "TableEncoder": ("anyjepa.engine.table_encoder", "TableEncoder"),
    "health": ("anyjepa.core.health", None),
    "UserError": ("anyjepa.core.errors", "UserError"),
}
__all__ = ["__version__", *_WHERE]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'anyjepa' has no attribute '{name}'")
    module, attribute = _WHERE[name]
    loaded = importlib.import_module(module)
    return getattr(loaded, attribute) if attribute else loaded


def __dir__() -> list[str]:
    return sorted(__all__)
