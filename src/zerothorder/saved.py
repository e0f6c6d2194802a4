"""The config.json of a run: read again, and what a resumed run may have otherwise."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from zerothorder.config import PLACES, TrainConfig
from zerothorder.errors import UsageError, nearest
from zerothorder.places import same_place

_SHOWN = ("profile", "quiet", "json")
"""Fields that say what this call shows; off where it does not say."""
_OF_THE_CALL = ("resume", "overwrite", "output", *_SHOWN)
"""Fields that say what to do now, not what the run is."""
_MAY_CHANGE = ("report_to", "eval_every", "snapshot_every", "check", "threads", "copies")
"""Fields that a resumed run may have otherwise; `threads` with a warning, since sums may round otherwise."""


def is_config(path: Path) -> bool:
    """Whether a config.json is a run's; models have files of that name too. One that cannot be read may be."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return True
    return _of_a_run(found)


def _of_a_run(found: Any) -> bool:
    return isinstance(found, dict) and "output" in found


def load_config(path: Path) -> TrainConfig:
    """A saved config. UsageError for an unreadable file or unknown fields."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {path}: {error}; is this the folder of a run?") from error
    fields = {f.name: f for f in dataclasses.fields(TrainConfig)}
    if not _of_a_run(found):
        raise UsageError(f"{path} is not the config.json of a run; is this the folder of a run?")
    for name in found:
        if name not in fields:
            raise UsageError(f"{path} has an unknown field {name!r}{nearest(name, fields)}")
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in found.items()}
    values["output"] = Path(found["output"])
    return TrainConfig(**values)


def saved_run(folder: Path) -> TrainConfig:
    """The config of the run in a folder, set to resume it there. UsageError where there is none."""
    path = folder / "config.json"
    if not path.exists():
        raise UsageError(f"there is no run to resume in {folder}; leave --resume out to start one")
    now: dict[str, Any] = {"output": folder, "resume": True, "overwrite": False}
    return dataclasses.replace(load_config(path), **now, **dict.fromkeys(_SHOWN, False))


def check_resumable(given: TrainConfig, *, complete: bool = False) -> TrainConfig:
    """The config to go on with. UsageError names the first field that would change the run.

    A field of `given` that has its default counts as not given, unless `complete` says that `given` was made from
    the saved config and every field is meant.
    """
    saved = saved_run(given.output)
    changes: dict[str, Any] = {name: getattr(given, name) for name in _SHOWN}
    for field in dataclasses.fields(TrainConfig):
        before, now = getattr(saved, field.name), getattr(given, field.name)
        if field.name in _OF_THE_CALL or now == before or (now == field.default and not complete):
            continue
        if field.name in PLACES and same_place(before, now):
            continue
        used = _used(saved, field.name)
        if now == used:
            continue
        if field.name in _MAY_CHANGE:
            changes[field.name] = now
        else:
            started = f"the run in {given.output} was started with {field.name} = {used!r}, not {now!r}"
            if field.name == "steps":
                raise UsageError(
                    f"{started}, and its schedule runs over them; leave the flag out to resume it, or start a new run "
                    f"in another output folder, with --model {given.output / 'model'} if it shall go on from there"
                )
            raise UsageError(f"{started}; leave the flag out to resume it, or choose another output folder")
    return dataclasses.replace(saved, **changes)


def _used(saved: TrainConfig, name: str) -> Any:
    """The value a run goes by: where the config has none, the recipe's own for its scheme."""
    value = getattr(saved, name)
    if value is not None:
        return value
    from zerothorder import catalogue  # with torch, which the command line does without until it has something to do

    return getattr(catalogue.build(saved.recipe, saved.scheme, **saved.recipe_settings()), name, None)
