"""The catalogue of recipes: one row a method drives the command line, docs, tests and benchmark."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from zerothorder.errors import UsageError, nearest
from zerothorder.recipe import Recipe
from zerothorder.recipes import (
    block_wise,
    first_order,
    forward_grad,
    hybrid,
    low_rank,
    mezo,
    sparse_gradient,
    spsa,
    zo_adam,
    zo_sgd,
    zo_sgd_cons,
    zo_sgd_mmt,
    zo_sgd_sign,
    zopro,
    zpg,
)


@dataclass(frozen=True)
class Row:
    """A recipe class and its defaults for each scheme (full, lora, prefix, prompt, head)."""

    recipe: type[Recipe]
    schemes: Mapping[str, Mapping[str, float | str]]


_NONE: Mapping[str, Mapping[str, float]] = {scheme: {} for scheme in zo_sgd.SCHEME_DEFAULTS}

CATALOGUE: dict[str, Row] = {
    kind.name: Row(kind, schemes)
    for kind, schemes in (
        (mezo.MeZO, mezo.SCHEME_DEFAULTS),
        (spsa.SPSA, mezo.SCHEME_DEFAULTS),
        (low_rank.LowRankSPSA, mezo.SCHEME_DEFAULTS),
        (zo_sgd.ZOSGD, zo_sgd.SCHEME_DEFAULTS),
        (zo_sgd_sign.ZOSGDSign, zo_sgd_sign.SCHEME_DEFAULTS),
        (zo_sgd_mmt.ZOSGDMMT, zo_sgd_mmt.SCHEME_DEFAULTS),
        (zo_sgd_cons.ZOSGDCons, zo_sgd.SCHEME_DEFAULTS),
        (zo_adam.ZOAdam, zo_adam.SCHEME_DEFAULTS),
        (forward_grad.ForwardGrad, zo_sgd.SCHEME_DEFAULTS),
        (block_wise.BlockWise, zo_sgd.SCHEME_DEFAULTS),
        (hybrid.Hybrid, zo_sgd.SCHEME_DEFAULTS),
        (sparse_gradient.SparseGradient, sparse_gradient.SCHEME_DEFAULTS),
        (zopro.ZOPrO, _NONE),
        (zpg.ZPG, zo_sgd.SCHEME_DEFAULTS),
        (zpg.ZSPO, zo_sgd_sign.SCHEME_DEFAULTS),
        (first_order.SGD, _NONE),
        (first_order.AdamW, first_order.SCHEME_DEFAULTS),
    )
}


_NUMBERS: Mapping[Any, tuple[type, str]] = {"float": (Real, "a number"), "int": (Integral, "a whole number")}
"""What a field of a recipe may hold, by its type's name: where annotations are postponed, fields have no more."""


def register(recipe: type[Recipe], schemes: Mapping[str, Mapping[str, float | str]] | None = None) -> type[Recipe]:
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
    """The recipe with its scheme's defaults and then `settings`. UsageError for unknown names and for what is no number
    where one is meant; other values are the recipe's own to refuse."""
    found = row(name)
    fields = {f.name: getattr(f.type, "__name__", f.type) for f in dataclasses.fields(found.recipe)}  # type: ignore[arg-type]
    if scheme not in found.schemes:
        raise UsageError(f"recipe {name!r} has no scheme {scheme!r}{nearest(scheme, found.schemes)}")
    for key in settings:
        if key not in fields:
            raise UsageError(f"recipe {name!r} has no setting {key!r}{nearest(key, fields)}")
    for key, value in settings.items():
        kind, called = _NUMBERS.get(fields[key], (object, ""))
        if called and (not isinstance(value, kind) or isinstance(value, bool)):
            raise UsageError(f"the setting {key} of recipe {name!r} is {value!r}; it is {called}")
    return found.recipe(**{**found.schemes[scheme], **settings})
