"""One offline page of an interplay: paths to turn with the mouse, cosines with the band of chance, tensor by tensor."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zerothorder.errors import UsageError
from zerothorder.interplay.look import WHOLE, Interplay
from zerothorder.interplay.maps import flattened
from zerothorder.interplay.measures import Matrix
from zerothorder.ledger.attachments import write_durably

MOST = 400
"""Tensors whose own pictures the page holds: those that moved most."""


def table(found: Interplay, maps: Sequence[str] = ()) -> dict[str, Any]:
    """Everything the page draws, as plain values: by tensor ("" for all together) the paths and what they say; of all
    together the `maps` (see `maps.flattened`) too."""
    lengths = {
        name: sum(float(path.lengths(name).sum()) for path in found.paths.values())
        for name in next(iter(found.paths.values())).updates
    }
    chosen = [WHOLE, *sorted((n for n in lengths if n != WHOLE), key=lambda n: -lengths[n])[:MOST]]
    return {
        "runs": _runs(found),
        "weights": next(iter(found.paths.values())).counts[WHOLE],
        "left_out": len(lengths) - len(chosen),
        "tensors": [_tensor(found, name) for name in chosen],
        "maps": {name: {str(count): _map(found, name, count) for count in (2, 3)} for name in maps if name != "pca"},
    }


def _runs(found: Interplay) -> list[dict[str, Any]]:
    return [{"name": path.name, "moments": path.moments} for path in found.paths.values()]


def _map(found: Interplay, name: str, count: int) -> dict[str, Any]:
    points = flattened(found.places(), name, count)
    apart, middle = found.apart(points), points.mean(0)
    return {run: [_list(place) for place in own - middle] for run, own in apart.items()}


def _tensor(found: Interplay, name: str) -> dict[str, Any]:
    places, shares = found.together(name)
    one = next(iter(found.paths.values()))
    return {
        "name": name or "all tensors",
        "weights": one.counts[name],
        "chance": _short(one.chance(name)),
        "shares": _list(shares),
        "places": {run: [_list(place) for place in own] for run, own in places.items()},
        "lengths": {run: _list(path.lengths(name)) for run, path in found.paths.items()},
        "successive": {run: _list(path.successive(name)) for run, path in found.paths.items()},
        "pairs": [_pair(found, first, second, name) for first, second in found.across],
    }


def _pair(found: Interplay, first: str, second: str, name: str) -> dict[str, Any]:
    pair = found.pair(first, second, name)
    return {
        "first": first,
        "second": second,
        "together": _list(pair.together),
        "after": _list(pair.after),
        "disparity": _short(pair.disparity),
        "distance_correlation": _short(pair.distance_correlation),
    }


def write_page(found: Interplay, target: Path, maps: Sequence[str] = ()) -> Path:
    """The page, whole or not at all. UsageError where jinja2 is missing."""
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise UsageError("the page needs jinja2, which is not installed: pip install 'zerothorder[report]'") from error
    environment = Environment(
        loader=PackageLoader("zerothorder.interplay", "templates"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    # "</" would end the script that the values stand in
    data = json.dumps(table(found, maps), separators=(",", ":")).replace("</", "<\\/")
    page = environment.get_template("interplay.html.j2").render(title=" and ".join(found.paths), data=data)
    partial = target.with_name(target.name + ".part")
    partial.write_text(page, encoding="utf-8")
    partial.replace(target)
    return target


def write_values(found: Interplay, folder: Path) -> Path:
    """FOLDER/interplay.json: what the page says of all tensors together, for the run's own report."""
    kept = {"runs": _runs(found), "tensors": [_tensor(found, WHOLE)]}
    target = folder / "interplay.json"
    write_durably(target, (json.dumps(kept, indent=1) + "\n").encode())
    return target


def _list(values: Matrix) -> list[float | None]:
    return [_short(float(value)) for value in values]


def _short(value: float) -> float | None:
    """Five digits; None for what is not a number, which JSON has no word for."""
    return float(f"{value:.5g}") if math.isfinite(value) else None
