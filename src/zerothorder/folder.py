"""A run's folder: looked at before anything is written, made in one go, taken back when the run cannot start."""

import dataclasses
import shutil
from pathlib import Path

from zerothorder import catalogue
from zerothorder.config import TrainConfig
from zerothorder.environment import FILE as ENVIRONMENT
from zerothorder.errors import UsageError
from zerothorder.ledger.attachments import write_durably
from zerothorder.ledger.lock import claimed
from zerothorder.saved import check_resumable

_FILES = ("ledger.zo", "metrics.jsonl", "report.html", "interplay.json", "config.json", ENVIRONMENT)
_BEGUN = ".config.json.tmp"
"""All that a run leaves which was killed while its config was written."""
_FOLDERS = ("model", "snapshots", "attachments", "tensorboard")


def inspect(config: TrainConfig, *, complete: bool = False) -> TrainConfig:
    """The config to run with, its paths absolute; writes nothing.

    UsageError for settings no run can have, and for a folder in use.

    `complete`: see `saved.check_resumable`.
    """
    config.check_numbers()
    if config.resume:
        return check_resumable(config, complete=complete)
    # the recipe's mistakes are found without a model
    recipe = catalogue.build(config.recipe, config.scheme, **config.recipe_settings())
    for part in (recipe.estimator, recipe.update, lambda: recipe.rates(0, config.steps)):
        part()
    folder = config.output
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"the output folder {folder} is a file; choose another")
    if folder.exists() and any(path.name != _BEGUN for path in folder.iterdir()):
        if not (folder / "config.json").exists():
            raise UsageError(f"the output folder {folder} is not empty and holds no run; choose another")
        if not config.overwrite:
            raise UsageError(
                f"the output folder {folder} holds another run; choose another, or --resume it, or --overwrite it"
            )
    return config.with_absolute_paths()


def create(config: TrainConfig) -> None:
    """Make the folder and write config.json into it; a run that may be overwritten goes. UsageError if it cannot."""
    folder = config.output
    try:
        folder.mkdir(parents=True, exist_ok=True)
        empty(folder)
        write_durably(folder / "config.json", dataclasses.replace(config, overwrite=False).to_json().encode())
    except OSError as error:
        discard(folder)
        raise UsageError(
            f"cannot make the output folder {folder}: {error.strerror}; choose another or free some space"
        ) from error


def empty(folder: Path) -> None:
    """Remove what a run leaves, and nothing else. UsageError while another process goes on with it."""
    with claimed(folder / "ledger.zo"):
        for name in (*_FILES, _BEGUN):
            (folder / name).unlink(missing_ok=True)
        for name in _FOLDERS:
            shutil.rmtree(folder / name, ignore_errors=True)


def discard(folder: Path) -> None:
    """Take back a run that could not start: nothing half-written stays."""
    if folder.is_dir():
        empty(folder)
        if not any(folder.iterdir()):
            folder.rmdir()
