"""The catalogue of recipes: one row a method drives the command line, docs, tests and benchmark."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zerothorder.errors import UsageError, nearest
from zerothorder.recipe import Recipe
from zerothorder.recipes import first_order, low_rank, mezo, spsa, zopro


@dataclass(frozen=True)
class Row:
    """A recipe class and its defaults for each scheme (full, lora, prefix)."""

    recipe: type[Recipe]
    schemes: Mapping[str, Mapping[str, float]]


CATALOGUE: dict[str, Row] = {
    kind.name: Row(kind, mezo.SCHEME_DEFAULTS) for kind in (mezo.MeZO, spsa.SPSA, low_rank.LowRankSPSA)
} | {
    zopro.ZOPrO.name: Row(zopro.ZOPrO, {scheme: {} for scheme in mezo.SCHEME_DEFAULTS}),
    first_order.SGD.name: Row(first_order.SGD, {scheme: {} for scheme in mezo.SCHEME_DEFAULTS}),
    first_order.AdamW.name: Row(first_order.AdamW, first_order.SCHEME_DEFAULTS),
}


def register(recipe: type[Recipe], schemes: Mapping[str, Mapping[str, float]] | None = None) -> type[Recipe]:
    """Add a recipe of your own, so that runs can name it and replay can find it. UsageError for a taken name."""
    if CATALOGUE.get(recipe.name, Row(recipe, {})).recipe is not recipe:
        raise UsageError(f"the recipe name {recipe.name!r} is taken; choose another")
    CATALOGUE[recipe.name] = Row(recipe, schemes or {"full": {}})
    return recipe


def row(name: str) -> Row:
    """UsageError with the nearest name for an unknown recipe."""
    if name not in CATALOGUE:
        raise UsageError(f"unknown recipe {name!r}{nearest(name, CATALOGUE)} (`zo recipes` lists them)")
    return CATALOGUE[name]


def build(name: str, scheme: str = "full", **settings: Any) -> Recipe:
    """The recipe with its scheme's defaults and then `settings`. UsageError for unknown names."""
    found = row(name)
    fields = [f.name for f in dataclasses.fields(found.recipe)]  # type: ignore[arg-type]
    if scheme not in found.schemes:
        raise UsageError(f"recipe {name!r} has no scheme {scheme!r}{nearest(scheme, found.schemes)}")
    for key in settings:
        if key not in fields:
            raise UsageError(f"recipe {name!r} has no setting {key!r}{nearest(key, fields)}")
    return found.recipe(**{**found.schemes[scheme], **settings})
