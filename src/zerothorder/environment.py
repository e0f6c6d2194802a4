"""What a run's bits may depend on beyond its config: threads, processor, versions. Written before the first step.

Replay depends on none of it. A live step does: forwards add up in an order that threads and libraries choose.
"""

import json
import platform
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from zerothorder.errors import UsageError
from zerothorder.ledger.attachments import write_durably

FILE = "environment.json"
_PACKAGES = ("zerothorder", "torch", "numpy", "numba", "transformers", "peft", "safetensors")


def environment(executor: str, device: str) -> dict[str, Any]:
    """Threads, executor, device, processor, versions, as they are in this process."""
    return {
        "threads": torch.get_num_threads(),
        "executor": executor,
        "device": device,
        "machine": platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "system": platform.system(),
        "python": platform.python_version(),
        **{name: found for name in _PACKAGES if (found := _version(name))},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def load(folder: Path) -> dict[str, Any]:
    """What the run in a folder has written about its environment; empty where it has nothing readable."""
    try:
        found = json.loads((folder / FILE).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def save(folder: Path, found: Mapping[str, Any]) -> None:
    """Write RUN/environment.json. UsageError when the disk is full."""
    path = folder / FILE
    try:
        write_durably(path, (json.dumps(found, indent=2) + "\n").encode())
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}; free some space, then resume the run") from error


def use_threads(asked: int | None, saved: Mapping[str, Any]) -> None:
    """Set torch's CPU threads: what was asked, else what the run had, else torch's own choice."""
    threads = asked if asked is not None else saved.get("threads")
    if isinstance(threads, int) and threads != torch.get_num_threads():
        torch.set_num_threads(threads)


def compare(saved: Mapping[str, Any], now: Mapping[str, Any], note: Callable[[str], None]) -> None:
    """Say what is otherwise than when the run was started, since further steps may then round otherwise."""
    changed = [
        f"{name} {now.get(name)} (was {saved[name]})" for name in saved if name in now and now[name] != saved[name]
    ]
    if changed:
        note(
            f"the run goes on with {', '.join(changed)}: its further steps may differ in their last bits from a run "
            "that was never stopped; it replays all the same"
        )
