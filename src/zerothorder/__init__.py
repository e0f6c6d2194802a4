"""Zeroth-order training: exact parts, and a run as a ledger of (key, scalar) pairs.

`ZerothOrder` is a torch optimizer without gradients; `minimize` and `Search` treat numpy functions; `train` runs a
`TrainConfig`; `zerothorder.replay` rebuilds weights from base and ledger. Everything else is a part
(`zerothorder.directions`, `estimators`, `updates`, `objectives`, `execution`, `ledger`). Importing this loads torch
and nothing heavy.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zerothorder.blackbox import Search, minimize
    from zerothorder.config import TrainConfig
    from zerothorder.errors import LedgerError, UsageError
    from zerothorder.integrations.trainer import TrainerMixin
    from zerothorder.optimizer import ZerothOrder
    from zerothorder.training import train

__version__ = "0.1.0.dev0"

_PUBLIC = {
    "LedgerError": "errors",
    "Search": "blackbox",
    "TrainConfig": "config",
    "TrainerMixin": "integrations.trainer",
    "UsageError": "errors",
    "ZerothOrder": "optimizer",
    "minimize": "blackbox",
    "train": "training",
}
_PACKAGES = frozenset(
    ["catalogue", "directions", "estimators", "execution", "ledger", "objectives", "recipes", "replay", "updates"]
)

__all__ = [
    "LedgerError",
    "Search",
    "TrainConfig",
    "TrainerMixin",
    "UsageError",
    "ZerothOrder",
    "minimize",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"zerothorder.{_PUBLIC[name]}"), name)
    if name in _PACKAGES:
        return importlib.import_module(f"zerothorder.{name}")
    raise AttributeError(f"module 'zerothorder' has no attribute {name!r}")
