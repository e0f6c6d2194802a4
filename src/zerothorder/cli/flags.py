"""A frozen dataclass becomes flags: one a field, its docstring the help, in titled groups."""

import ast
import dataclasses
import functools
import inspect
import itertools
import textwrap
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import tyro

from zerothorder.cli.words import check_words, metavar

Config = TypeVar("Config")
Groups = Mapping[str, Sequence[str]]
"""Title → field names. What is in no group stands with --help."""


def parse(
    kind: type[Config],
    arguments: Sequence[str],
    prog: str,
    groups: Groups | None = None,
    positional: Sequence[str] = (),
    default: Config | None = None,
    aliases: Mapping[str, Sequence[str]] | None = None,
) -> Config:
    """The dataclass that the arguments describe; flags left out have `default`'s values.

    UsageError for what is wrong with a word; prints help and exits where that is asked for.
    """
    pairs = default is not None  # what is on already must be possible to turn off
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    grouped = {name for names in (groups or {}).values() for name in names}
    alone = [name for name in fields if name not in grouped]
    hints, docs, short = get_type_hints(kind), field_docs(kind), aliases or {}
    flags = {name: field for name, field in fields.items() if hints[name] is bool and name not in positional}
    negatable = [name for name, field in flags.items() if pairs or field.default is True]
    check_words(kind, arguments, prog, positional, short, defaults=pairs, negatable=negatable)
    parts: list[Any] = []
    for number, (title, names) in enumerate({"": alone, **(groups or {})}.items()):
        members: list[Any] = []
        for name in names:
            hint: Any = Annotated[
                hints[name],
                _shown(hints[name], fields[name], docs.get(name, ""), default, short.get(name), name in positional),
            ]
            if name in positional:
                hint = tyro.conf.Positional[hint]
            if name in flags and name not in negatable:
                hint = tyro.conf.FlagCreatePairsOff[hint]
            members.append((name, hint, _field(fields[name], default)))
        if not title:
            parts += members
            continue
        group = dataclasses.make_dataclass(f"Group{number}", members, frozen=True, kw_only=True)
        group.__doc__ = None
        parts.append((title.replace(" ", "_"), Annotated[group, tyro.conf.arg(help="")]))
    outer = dataclasses.make_dataclass(kind.__name__, parts, frozen=True, kw_only=True)
    found = tyro.cli(
        outer,
        prog=prog,
        description=inspect.getdoc(kind),
        args=list(arguments),
        config=(tyro.conf.OmitArgPrefixes,),
    )
    values = {name: getattr(found, name) for name in alone}
    for title, names in (groups or {}).items():
        values |= {name: getattr(getattr(found, title.replace(" ", "_")), name) for name in names}
    return kind(**values)


def _shown(
    hint: Any,
    field: "dataclasses.Field[Any]",
    doc: str,
    default: Any,
    aliases: Sequence[str] | None,
    positional: bool,
) -> Any:
    """Help without what says nothing: None among the choices, and empty defaults. Words without a flag have names."""
    value = getattr(default, field.name) if default is not None else field.default
    nothing = value is None or value is False or value == ()
    several = value is dataclasses.MISSING and get_origin(hint) is tuple
    quiet: dict[str, Any] = {"help_behavior_hint": ""} if nothing or several else {}
    if positional:
        name = field.name.upper()
        quiet["metavar"] = name if field.default is dataclasses.MISSING else f"[{name}]"
    elif type(None) in get_args(hint):
        quiet["metavar"] = metavar(hint)
    return tyro.conf.arg(help=doc, aliases=list(aliases) if aliases else None, **quiet)


def _field(field: "dataclasses.Field[Any]", default: Any) -> Any:
    if default is not None:
        return dataclasses.field(default=getattr(default, field.name))
    if field.default_factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=field.default_factory)
    return dataclasses.field(default=field.default) if field.default is not dataclasses.MISSING else dataclasses.field()


@functools.cache
def field_docs(kind: type) -> dict[str, str]:
    """Field name → the string that stands below it in the class body; bases included."""
    docs: dict[str, str] = {}
    for cls in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(cls):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body  # type: ignore[attr-defined]
        for before, after in itertools.pairwise(body):
            if (
                isinstance(before, ast.AnnAssign)
                and isinstance(before.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
            ):
                docs[before.target.id] = inspect.cleandoc(str(after.value.value))
    return docs
