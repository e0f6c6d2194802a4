"""Prompt templates and verbalizers: how a row becomes a question, and which words may answer it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from string import Formatter
from typing import Any

from zerothorder.errors import UsageError, nearest


@dataclass(frozen=True)
class Template:
    """Text with `{column}` places; `pieces` are (literal, column or None) in order."""

    pieces: tuple[tuple[str, str | None], ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it names, each once, in order."""
        return tuple(dict.fromkeys(column for _, column in self.pieces if column is not None))

    def cells(self, row: Mapping[str, object], where: str) -> dict[str, str]:
        """The row's values of these columns as text."""
        found: dict[str, str] = {}
        for column in self.columns:
            if column not in row:
                raise UsageError(
                    f"the template names column {column!r}, which {where} does not have{nearest(column, row)}"
                )
            value = row[column]
            if not isinstance(value, str | int | float):
                kind = "nothing" if value is None else f"a {type(value).__name__}"
                raise UsageError(f"{where} has {kind} in column {column!r}, where the template needs text: correct it")
            found[column] = str(value)
        return found

    def fill(self, cells: Mapping[str, str]) -> str:
        """The template with these values in its places."""
        return "".join(text + (cells[column] if column is not None else "") for text, column in self.pieces)

    @property
    def tail(self) -> str:
        """The fixed text after the last column."""
        after = ""
        for text, column in reversed(self.pieces):
            if column is not None:
                break
            after = text + after
        return after


def parse_template(template: str) -> Template:
    """Read "{text} It was": plain column names in braces, `{{` and `}}` for braces themselves."""
    pieces: list[tuple[str, str | None]] = []
    try:
        for text, column, form, conversion in Formatter().parse(template):
            if column is not None and (not column or form or conversion or column.strip() != column):
                raise ValueError("a place is a column name in braces and nothing else")
            pieces.append((text, column))
    except ValueError as error:
        raise UsageError(
            f"the template {template!r} cannot be read ({error}): write it like '{{text}} It was', and {{{{ for a brace"
        ) from error
    if not any(column is not None for _, column in pieces):
        raise UsageError(
            f"the template {template!r} names no column, so all prompts would be alike: put {{text}} in it"
        )
    return Template(tuple(pieces))


@dataclass(frozen=True)
class Verbalizers:
    """The labels of a classification task and the word that stands for each; `among` says what a label has to be."""

    labels: tuple[str, ...]
    words: tuple[str, ...]
    among: str = "one of the verbalizers; give it a word or correct the row"

    def index(self, label: object, where: str) -> int:
        """The class number of a row's label."""
        name = label_name(label)
        if name not in self.labels:
            raise UsageError(f"{where} has the label {name!r}, not {self.among}{nearest(name, self.labels)}")
        return self.labels.index(name)


def label_name(label: object) -> str:
    """A label as it is written in the verbalizers: 1, 1.0 and "1" are the same, true is as in JSON."""
    if isinstance(label, bool):
        return str(label).lower()
    if isinstance(label, float) and label.is_integer():
        return str(int(label))
    return str(label).strip()


def parse_verbalizers(given: "str | Mapping[Any, str] | Verbalizers") -> Verbalizers:
    """Read "0=terrible,1=great", a JSON object (for words with a comma), or a dict."""
    if isinstance(given, Verbalizers):
        return given
    pairs = list(given.items()) if isinstance(given, Mapping) else _pairs(given)
    labels = [label_name(label) for label, _ in pairs]
    words = [str(word).strip() for _, word in pairs]
    if len(pairs) < 2:
        raise UsageError(f"the verbalizers {given!r} name {len(pairs)} of at least 2 classes: write them {_LIKE}")
    for label, word in zip(labels, words, strict=True):
        if not label or not word:
            raise UsageError(f"the verbalizers {given!r} have a class without a label or a word: write them {_LIKE}")
        if labels.count(label) > 1:
            raise UsageError(f"the verbalizers {given!r} name the label {label!r} twice: give each label one word")
        if words.count(word) > 1:
            raise UsageError(f"the verbalizers {given!r} use the word {word!r} twice: give each label its own word")
    return Verbalizers(tuple(labels), tuple(words))


_LIKE = "like 0=terrible,1=great"


def _pairs(text: str) -> list[tuple[str, str]]:
    if text.lstrip().startswith("{"):
        try:
            found = json.loads(text)
        except json.JSONDecodeError as error:
            raise UsageError(f"the verbalizers {text!r} are not JSON ({error}): write them {_LIKE}") from error
        return [(str(label), str(word)) for label, word in found.items()]
    pairs: list[tuple[str, str]] = []
    for part in text.split(","):
        label, equals, word = part.partition("=")
        if not equals:
            raise UsageError(f"the verbalizers {text!r} have a part {part.strip()!r} without '=': write them {_LIKE}")
        pairs.append((label, word))
    return pairs
