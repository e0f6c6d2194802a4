"""Plain text to pretrain on: Debian descriptions and WordNet glosses, without what shipped tasks keep for dev and test.

A document is left out if it comes from a source package or synset that a row of dev or test names, or if it has a run
of words in common with such a row (see `HeldOut`). So no model that saw these documents has seen an answer.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from debian_index import Description, Package, drawn
from wordnet import Synset

RUN, SHORTEST = 8, 4
"""So many words in a row count as the same text; a shorter text counts as a whole, from `SHORTEST` words on."""
NAMES = ("package", "rejected_from", "version", "label", "word", "synset", "topic")
"""Columns that are no text of the row."""


@dataclass(frozen=True)
class Document:
    """One text. `name` says where it is from: debian/SOURCE or wordnet/SYNSET."""

    name: str
    text: str


def words_in(text: str) -> tuple[str, ...]:
    """Its words in lower case, without what stands between them."""
    return tuple(re.findall(r"\w+", text.lower()))


def runs_of(words: tuple[str, ...], length: int) -> Iterator[tuple[str, ...]]:
    """All runs of so many words."""
    return (words[at : at + length] for at in range(len(words) - length + 1))


class HeldOut:
    """What rows of dev and test must not share with a document: packages, synsets, texts."""

    def __init__(self, rows: Iterable[Mapping[str, Any]]) -> None:
        self.packages: set[str] = set()
        self.synsets: set[str] = set()
        self.texts: set[tuple[str, ...]] = set()
        self.runs: set[tuple[str, ...]] = set()
        for row in rows:
            self.packages |= {row[name] for name in ("package", "rejected_from") if name in row}
            self.synsets |= {row["synset"]} if "synset" in row else set()
            for name, text in row.items():
                if name not in NAMES:
                    self.add(text)

    def add(self, text: str) -> None:
        """One more text that is kept."""
        words = words_in(text)
        self.texts.add(words)
        if len(words) >= SHORTEST:
            self.runs.update(runs_of(words, min(RUN, len(words))))

    def touches(self, text: str) -> bool:
        """Whether a text is one of these, holds a short one, or shares `RUN` words in a row with a longer one."""
        words = words_in(text)
        lengths = range(SHORTEST, RUN + 1)
        return words in self.texts or any(run in self.runs for length in lengths for run in runs_of(words, length))


def read_held_out(shipped: Path) -> HeldOut:
    """Of dev and test of every shipped task."""
    paths = [path for split in ("dev", "test") for path in sorted(shipped.glob(f"*/{split}.jsonl"))]
    if not paths:
        raise SystemExit(f"{shipped} holds no task: run scripts/tasks.py first")
    return HeldOut(json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines())


def documents(
    packages: Iterable[Package], english: Mapping[str, Description], synsets: Iterable[Synset], held: HeldOut
) -> list[Document]:
    """One a source package (its running text) and one a synset ("words: gloss; examples"), in the order of a hash.

    Every text once; none that `held` names or touches. `packages` are one a source, as `read_packages` gives them, so
    a row's package stands for its source.
    """
    found: dict[tuple[str, ...], Document] = {}
    for document, own in _sources(packages, english, synsets):
        taken = own in held.packages if document.name.startswith("debian/") else own in held.synsets
        if words_in(document.text) and not taken and not held.touches(document.text):
            found.setdefault(words_in(document.text), document)
    return sorted(found.values(), key=lambda document: drawn("pretrain " + document.name))


def _sources(
    packages: Iterable[Package], english: Mapping[str, Description], synsets: Iterable[Synset]
) -> Iterator[tuple[Document, str]]:
    for package in packages:
        if package.digest in english:
            yield Document(f"debian/{package.source}", english[package.digest].text), package.name
    for synset in synsets:
        told = "; ".join([synset.gloss, *(f'"{example}"' for example in synset.examples)])
        yield Document(f"wordnet/{synset.name}", f"{', '.join(synset.words)}: {told}"), synset.name
