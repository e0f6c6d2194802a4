"""The words of a command line, looked at before they are parsed: each mistake in them gets one sentence."""

import dataclasses
import difflib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from zerothorder.errors import UsageError

_EXPECTED = {int: "a whole number", float: "a number", Path: "a path", str: "a word"}


def check_words(
    kind: type, words: Sequence[str], prog: str, positional: Sequence[str], aliases: Mapping[str, Sequence[str]],
    *, defaults: bool, negatable: Collection[str],
) -> None:  # fmt: skip
    """UsageError for the first flag that does not exist, has no value or a wrong one, and for what is missing.

    `defaults` says that every field has a default; `negatable` are the fields with a --no-flag. What is asked for help
    is not looked at.
    """
    if any(word in ("-h", "--help") or word.startswith("--tyro-") for word in words):
        return
    fields = {field.name: field for field in dataclasses.fields(kind)}
    hints = get_type_hints(kind)
    flags = {f"--{name.replace('_', '-')}": name for name in fields if name not in positional}
    flags |= {short: name for name, all_of in aliases.items() for short in all_of}
    flags |= {f"--no-{name.replace('_', '-')}": name for name in negatable}
    found, free = set[str](), list[str]()
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not _is_flag(word):
            free.append(word)
            continue
        flag, has_value, value = word.partition("=")
        flag = flag.replace("_", "-") if flag.startswith("--") else flag
        if flag not in flags:
            raise UsageError(_unknown(flag, flags, prog, positional))
        name = flags[flag]
        found.add(name)
        given = [value] if has_value else list(_values(rest, hints[name]))
        if has_value and hints[name] is bool:
            raise UsageError(f"{flag} takes no value, so leave {value!r} out")
        _check_values(flag, given, hints[name])
    if not (positional and get_origin(hints[positional[-1]]) is tuple):  # which takes as many as there are
        _check_free(free, prog, positional)
    for name, field in fields.items():
        needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if needed and not defaults and name not in found and name not in positional[: len(free)]:
            shown = name.upper() if name in positional else f"--{name.replace('_', '-')} {metavar(hints[name])}"
            raise UsageError(f"{prog} needs {shown}; `{prog} --help` tells what it is")


def plain_hint(hint: Any) -> Any:
    """What a value is where one is given: a hint without None."""
    if get_origin(hint) in (Union, UnionType):
        return next(arg for arg in get_args(hint) if arg is not NoneType)
    return hint


def metavar(hint: Any) -> str:
    """How help writes a value: PATH, INT, {a,b}."""
    hint = plain_hint(hint)
    return "{" + ",".join(map(str, get_args(hint))) + "}" if get_origin(hint) is Literal else hint.__name__.upper()


def _is_flag(word: str) -> bool:
    """Not a negative number."""
    return re.match(r"--?[A-Za-z]", word) is not None


def _values(rest: list[str], hint: Any) -> Iterator[str]:
    """The words that a flag takes off the rest: none, one, or all up to the next flag."""
    if hint is bool:
        return
    many = get_origin(hint) is tuple
    while rest and not _is_flag(rest[0]):
        yield rest.pop(0)
        if not many:
            return


def _check_values(flag: str, values: Sequence[str], hint: Any) -> None:
    if hint is bool or get_origin(hint) is tuple:
        return
    optional, hint = NoneType in get_args(hint), plain_hint(hint)
    choices = [str(choice) for choice in get_args(hint)] if get_origin(hint) is Literal else None
    expected = f"one of {', '.join(choices)}" if choices else _EXPECTED.get(hint, metavar(hint))
    if not values:
        raise UsageError(f"{flag} has no value; it must be followed by {expected}")
    (value,) = values
    if optional and value == "None":
        return
    if choices is not None and value not in choices:
        close = difflib.get_close_matches(value, choices, n=1)
        hint_at = f"; did you mean {close[0]!r}?" if close else ""
        raise UsageError(f"{flag} is {value!r}, but must be {expected}{hint_at}")
    try:
        if hint in (int, float):
            hint(value)
    except ValueError:
        raise UsageError(f"{flag} is {value!r}, but must be {expected}") from None


def _unknown(flag: str, flags: Mapping[str, str], prog: str, positional: Sequence[str]) -> str:
    if (name := flag.removeprefix("--").replace("-", "_")) in positional:
        return f"{prog} takes its {name} without a flag: {prog} {' '.join(place.upper() for place in positional)}"
    # without the dashes, which are alike in all of them
    bare = {known.lstrip("-"): known for known in ("--help", *flags)}
    close = difflib.get_close_matches(flag.lstrip("-"), bare, n=1)
    known = f"did you mean {bare[close[0]]}?" if close else f"`{prog} --help` lists its flags"
    return f"{prog} has no flag {flag}; {known}"


def _check_free(free: Sequence[str], prog: str, positional: Sequence[str]) -> None:
    if len(free) > len(positional):
        takes = f"takes {' '.join(name.upper() for name in positional)}" if positional else "takes flags only"
        raise UsageError(f"{prog} {takes}, so {free[len(positional)]!r} has no place; `{prog} --help` lists its flags")
