"""`zo recipes [NAME]`: the catalogue of methods."""

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

from zerothorder.cli.flags import parse
from zerothorder.cli.terminal import table, terminal


@dataclass(frozen=True, kw_only=True)
class Recipes:
    """The methods that `zo train --recipe` knows; with a name, its paper and settings."""

    name: str | None = None
    """A recipe."""
    json: bool = False
    """Print JSON."""


def main(words: Sequence[str]) -> int:
    """List the catalogue, or tell of one recipe."""
    asked = parse(Recipes, words, "zo recipes", positional=("name",))
    from zerothorder.catalogue import CATALOGUE

    with terminal(as_json=asked.json) as out:
        if asked.name is not None:
            found = describe(asked.name)
            settings = table(
                ("setting", *found["schemes"]),
                ((row["setting"], *(row[scheme] for scheme in found["schemes"])) for row in found["settings"]),
                title="settings, with their defaults by --scheme",
            )
            out.result(found, f"{found['name']}: {found['paper']}\n\n{found['about']}\n", settings)
            return 0
        rows = [describe(name) for name in CATALOGUE]
        shown = table(("recipe", "what it does", "paper"), ((r["name"], r["summary"], r["paper"]) for r in rows))
        for column in shown.columns:
            column.justify = "left"
        out.result({"recipes": rows}, shown, "\nzo recipes NAME: settings and their defaults")
    return 0


def describe(name: str) -> Mapping[str, Any]:
    """A catalogue row as plain values. UsageError for an unknown name."""
    from zerothorder.catalogue import build, row

    kind = row(name).recipe
    schemes = list(row(name).schemes)
    made = {scheme: build(name, scheme) for scheme in schemes}
    hints = get_type_hints(kind)
    settings = [
        {"setting": field.name, "type": _type(hints[field.name])}
        | {scheme: _plain(getattr(made[scheme], field.name)) for scheme in schemes}
        for field in dataclasses.fields(kind)  # type: ignore[arg-type]
    ]
    about = inspect.getdoc(kind) or ""
    summary = about.split("\n\n")[0].splitlines()[0]
    return {
        "name": name, "paper": kind.paper, "summary": summary, "about": about, "schemes": schemes, "settings": settings,
    }  # fmt: skip


def _type(hint: Any) -> str:
    return getattr(hint, "__name__", str(hint)).replace("typing.", "")


def _plain(value: Any) -> Any:
    return f"{value:g}" if isinstance(value, float) else value
