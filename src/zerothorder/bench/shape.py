"""What a suite file may say: its fields, what each holds, and the names of its tasks and methods."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from zerothorder.errors import UsageError, nearest

_FIELDS = ("kind", "about", "seeds", "defaults", "tasks", "methods")
_PLAIN: Mapping[Any, tuple[tuple[type, ...], str]] = {
    int: ((int,), "a whole number"), float: ((int, float), "a number"), str: ((str,), "a text"),
    bool: ((bool,), "true or false"), Mapping: ((Mapping,), "a table"),
}  # fmt: skip


def check_shape(path: Path, raw: Mapping[str, Any]) -> None:
    """UsageError for a field that suites do not have, one they need, or one of another kind."""
    for name in raw:
        if name not in _FIELDS:
            raise UsageError(f"{path} has a field {name!r} that suites do not have{nearest(name, _FIELDS)}")
    for name in ("kind", "tasks", "methods"):
        if not raw.get(name):
            raise UsageError(f"{path} has no {name}; a suite needs kind, [tasks.NAME] and [methods.NAME]")
    for name in ("kind", "about"):
        if not isinstance(raw.get(name, ""), str):
            raise UsageError(f"{name} of {path} is {raw[name]!r}; it is a text")
    for name, head in (("defaults", "[defaults]"), ("tasks", "[tasks.NAME]"), ("methods", "[methods.NAME]")):
        if not isinstance(raw.get(name, {}), Mapping):
            raise UsageError(f"{name} of {path} is {raw[name]!r}; it is a table, {head}")
    for group in ("tasks", "methods"):
        for name, own in raw[group].items():
            if not isinstance(own, Mapping):
                raise UsageError(f"{name} in [{group}] of {path} is {own!r}; it is a table, [{group}.{name}]")
            if not name or name.startswith(".") or set(name) & set("/\\"):
                raise UsageError(f"[{group}] of {path} has the name {name!r}, which no folder of results can have")
    seeds = raw.get("seeds", [0])
    whole = isinstance(seeds, list) and seeds and all(type(seed) is int and seed >= 0 for seed in seeds)
    if not whole or len(set(seeds)) < len(seeds):
        raise UsageError(f"seeds of {path} is {seeds!r}; it is a list of different whole numbers, 0 or more")


def check_names(path: Path, raw: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """UsageError for a setting that is none of the `known`, or a method's `only` that names no task."""
    parts = {"defaults": raw.get("defaults", {})}
    parts |= {f"tasks.{name}": own for name, own in raw["tasks"].items()}
    parts |= {f"methods.{name}": own for name, own in raw["methods"].items()}
    for where, part in parts.items():
        for name in part:
            if name not in known and not (name == "only" and where.startswith("methods.")):
                raise UsageError(f"[{where}] of {path} has a field {name!r} that is none{nearest(name, known)}")
    for method, own in raw["methods"].items():
        only = own.get("only", [])
        if not isinstance(only, list):
            raise UsageError(f"only of methods.{method} of {path} is {only!r}; it is a list of tasks")
        for task in only:
            if task not in raw["tasks"]:
                raise UsageError(f"methods.{method} of {path} is for a task {task!r}{nearest(str(task), raw['tasks'])}")


def check_values(kind: Any, values: Mapping[str, Any], where: str) -> None:
    """UsageError for a setting that is missing or of another type than the kind's."""
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if field.name not in values:
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                raise UsageError(f"{where} lacks a setting: {field.name!r}; give it in [defaults], a task or a method")
            continue
        value = values[field.name]
        hint = hints[field.name]
        if isinstance(hint, UnionType):
            hint = next(own for own in get_args(hint) if own is not type(None))
        kinds, called = _PLAIN.get(Mapping if get_origin(hint) is Mapping else hint, ((), ""))
        if kinds and (not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)):
            raise UsageError(f"{field.name} of {where} is {value!r}; it is {called}")
