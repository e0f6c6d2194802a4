"""Copies of metrics.jsonl to the tools people watch runs with; the file in the run folder stays the truth.

Each adapter imports its package when it is opened. All write below the run folder or as their package is set
up by its own environment variables (`WANDB_MODE=offline`, `TRACKIO_DIR`, ...), which are left as found.
"""

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from zerothorder.errors import UsageError, nearest
from zerothorder.report import text


class Tracker(Protocol):
    """Takes rows as they are written to metrics.jsonl."""

    def log(self, row: Mapping[str, Any]) -> None:
        """Show one row: its finite numbers, under `train/` or under its split, at its step."""
        ...

    def close(self) -> None:
        """Flush and let go; the tracker is not used afterwards."""
        ...


def check_trackers(names: Sequence[str]) -> None:
    """UsageError for a name that no tracker has; opens nothing."""
    for name in names:
        if name not in _OPENERS:
            raise UsageError(f"unknown tracker {name!r}{nearest(name, _OPENERS)}")


def open_trackers(names: Sequence[str], run_folder: Path, config: Mapping[str, Any]) -> list[Tracker]:
    """The named trackers, opened; when one cannot be, those before it are closed again."""
    check_trackers(names)
    opened: list[Tracker] = []
    try:
        for name in dict.fromkeys(names):
            opened.append(_OPENERS[name](Path(run_folder), config))
    except BaseException:
        for tracker in opened:
            tracker.close()
        raise
    return opened


def scalars(row: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a row under the names trackers group by: `train/loss`, `dev/accuracy`."""
    kind = row.get("kind")
    group = "train" if kind == "step" else str(row.get("split", "dev")) if kind == "eval" else str(kind)
    return {
        f"{group}/{name}": float(value)
        for name, value in row.items()
        if name != "step" and isinstance(value, int | float) and math.isfinite(value)
    }


class TensorBoard:
    """Event files in RUN/tensorboard."""

    def __init__(self, run_folder: Path, config: Mapping[str, Any]) -> None:
        module = _need("torch.utils.tensorboard", "tensorboard", "trackers")
        self._writer = module.SummaryWriter(log_dir=str(run_folder / "tensorboard"))
        rows = "\n".join(f"| {name} | {value} |" for name, value in text.settings(config))
        self._writer.add_text("config", f"| setting | value |\n|---|---|\n{rows}")
        self._step = 0

    def log(self, row: Mapping[str, Any]) -> None:
        """One scalar an entry."""
        self._step = int(row.get("step", self._step))
        for name, value in scalars(row).items():
            self._writer.add_scalar(name, value, self._step)

    def close(self) -> None:
        """Flush the event file."""
        self._writer.close()


class _Session:
    """trackio and wandb share one interface: init, log with a step, finish.

    Both refuse to go back in steps, and an evaluation may stand at the step of the training row before it, so
    rows of one step are gathered and sent together when the next step begins.
    """

    def __init__(self, session: Any, log: Callable[..., Any], finish: Callable[[], Any]) -> None:
        self._session, self._log, self._finish = session, log, finish
        self._step, self._gathered = 0, dict[str, float]()

    def log(self, row: Mapping[str, Any]) -> None:
        """Gather by step."""
        step = int(row.get("step", self._step))
        if step != self._step:
            self._send()
            self._step = step
        self._gathered |= scalars(row)

    def close(self) -> None:
        """Send the last step and end the session."""
        self._send()
        self._finish()

    def _send(self) -> None:
        if self._gathered:
            self._log(self._gathered, step=self._step)
            self._gathered = {}


def _open_trackio(run_folder: Path, config: Mapping[str, Any]) -> Tracker:
    trackio = _need("trackio", "trackio", "trackio")
    name = run_folder.resolve().name
    session = trackio.init(project="zerothorder", name=name, config=dict(text.settings(config)))
    return _Session(session, trackio.log, trackio.finish)


def _open_wandb(run_folder: Path, config: Mapping[str, Any]) -> Tracker:
    wandb = _need("wandb", "wandb", "wandb")
    session = wandb.init(
        project="zerothorder", name=run_folder.resolve().name, dir=str(run_folder), config=dict(config)
    )
    return _Session(session, session.log, session.finish)


def _need(module: str, package: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(
            f"--report-to {package} needs the package {package}, which is not installed: "
            f"pip install 'zerothorder[{extra}]'"
        ) from error


_OPENERS: dict[str, Callable[[Path, Mapping[str, Any]], Tracker]] = {
    "tensorboard": TensorBoard,
    "trackio": _open_trackio,
    "wandb": _open_wandb,
}
