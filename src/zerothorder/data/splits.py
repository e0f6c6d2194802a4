"""Which rows are for training, choosing and testing: decided by the hash of their text, never by chance."""

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from itertools import groupby
from typing import TypeVar

SPLITS = ("train", "dev", "test")
Row = TypeVar("Row", bound=Mapping[str, object])


def words(text: str) -> list[str]:
    """Runs of letters, digits and underscores, in lower case."""
    return re.findall(r"\w+", text.lower())


def text_hash(row: Mapping[str, object]) -> str:
    """sha256 of the row's text (else of its prompt, else of the whole row), so equal texts stay together."""
    text = row.get("text", row.get("prompt"))
    if not isinstance(text, str):
        text = json.dumps(dict(row), sort_keys=True, default=str)
    return hashlib.sha256(text.strip().encode()).hexdigest()


def by_count(rows: Sequence[Row], test: int, dev: int) -> dict[str, list[Row]]:
    """In order of the hash: the first `test` rows, the next `dev` rows, and the rest for training."""
    ordered = sorted(rows, key=text_hash)
    return {"train": ordered[test + dev :], "dev": ordered[test : test + dev], "test": ordered[:test]}


def carve(rows: Sequence[Row], wanted: Collection[str]) -> dict[str, list[Row]]:
    """Take the `wanted` ones of dev and test out of `rows`: a tenth of the texts each, the rest is training.

    Both wanted gives 80/10/10. A text that occurs twice lies in one split only. Every split gets at least one
    text while there are enough: training first, then dev, then test.
    """
    ordered = [list(group) for _, group in groupby(sorted(rows, key=text_hash), key=text_hash)]
    left = max(0, len(ordered) - 1)
    take = {"dev": 0, "test": 0}
    for split in ("dev", "test"):
        if split in wanted:
            take[split] = min(left, max(1, round(len(ordered) / 10)))
            left -= take[split]
    bounds = (take["test"], take["test"] + take["dev"])
    parts = {
        "test": ordered[: bounds[0]],
        "dev": ordered[bounds[0] : bounds[1]],
        "train": ordered[bounds[1] :],
    }
    return {split: [row for group in groups for row in group] for split, groups in parts.items()}


def held_out(rows: Sequence[Row], dev: int, train: int) -> tuple[list[Row], list[Row]]:
    """(`train` rows, `dev` rows), in the order of a hash of the whole row; a third for dev where there are too few.

    No training row shares its text with a row of dev: questions about one passage lie on one side.
    """
    ordered = sorted(rows, key=lambda row: text_hash({"row": dict(row)}))
    dev = min(dev, len(ordered) // 3)
    texts = {row.get("text") for row in ordered[:dev]}
    return [row for row in ordered[dev:] if row.get("text") not in texts][:train], ordered[:dev]
