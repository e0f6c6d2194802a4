"""WordNet's synsets with their glosses, from Debian's package `wordnet-base`, and the task made of them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from debian_index import drawn

PACKAGE = "wordnet-base"
CLASSES = {5: "animal", 6: "artifact", 13: "food", 15: "location", 18: "person", 20: "plant"}
"""Number of a noun's lexicographer file → its name, which is the label."""
NAMES = re.compile(
    r"\b(animals?|artifacts?|artefacts?|foods?|foodstuffs?|locations?|places?|persons?|people|someone|somebody|plants?)\b",
    re.IGNORECASE,
)
"""Words that name a class. They are taken out of the glosses of all classes: out of its own alone, a word that is left
would tell that the gloss is not of its class."""
EACH = 300


@dataclass(frozen=True)
class Synset:
    """One meaning: its words, the number of its lexicographer file, definition and examples."""

    name: str
    file: int
    words: tuple[str, ...]
    gloss: str
    examples: tuple[str, ...]


def read_synsets(folder: Path) -> Iterator[Synset]:
    """All of an unpacked package, nouns first. `name` is the offset and the part of speech: 02084071-n."""
    for part in ("noun", "verb", "adj", "adv"):
        path = folder / "usr" / "share" / "wordnet" / f"data.{part}"
        for line in path.read_text(encoding="latin-1").splitlines():
            # the licence at the top is indented
            if not line.startswith(" "):
                yield read_synset(line)


def read_synset(line: str) -> Synset:
    """One line: offset, file, part of speech, number of words in hexadecimal, words each with a number …| gloss."""
    head, _, told = line.partition(" | ")
    fields = head.split()
    words = fields[4 : 4 + 2 * int(fields[3], 16) : 2]
    # an adjective may say in parentheses where it stands
    plain = tuple(re.sub(r"\(\w+\)$", "", word).replace("_", " ") for word in words)
    definition, *examples = re.split(r';\s*(?=")', told.strip())
    return Synset(
        f"{fields[0]}-{fields[2]}", int(fields[1]), plain, definition.strip().rstrip(";"),
        tuple(example.strip().strip('"') for example in examples),
    )  # fmt: skip


def glosses(synsets: Iterator[Synset]) -> tuple[list[dict[str, Any]], int, int]:
    """Definition of a noun without the words that name classes → its class; 300 a class, 6 to 30 words left.

    A definition that two synsets share, whatever their classes, is left out.
    """
    shared: dict[str, int] = {}
    found: list[Synset] = []
    for synset in synsets:
        shared[synset.gloss] = shared.get(synset.gloss, 0) + 1
        if synset.name.endswith("-n") and synset.file in CLASSES:
            found.append(synset)
    counts = dict.fromkeys(CLASSES.values(), 0)
    rows: list[dict[str, Any]] = []
    texts: set[str] = set()
    for synset in sorted(found, key=lambda synset: drawn(synset.name)):
        label = CLASSES[synset.file]
        text = " ".join(NAMES.sub("", synset.gloss).split())
        if shared[synset.gloss] > 1 or text in texts or counts[label] == EACH or not 6 <= len(text.split()) <= 30:
            continue
        counts[label] += 1
        texts.add(text)
        rows.append({"text": text, "label": label, "word": synset.words[0], "synset": synset.name})
    return rows, 300, 300
