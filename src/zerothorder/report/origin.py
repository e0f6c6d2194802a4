"""Where a run's model comes from: the command, the ledger, and how to get it again."""

import dataclasses
import json
import shlex
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerothorder.errors import UsageError
from zerothorder.report import text

if TYPE_CHECKING:
    from zerothorder.ledger.reader import Contents

# How a run is driven and shown, not what it computes: a repeated run has its own.
_NOT_REPEATED = ("resume", "overwrite", "profile", "quiet", "json", "output")


@dataclass(frozen=True)
class Origin:
    """What the ledger tells: the recipe with every setting as used, and facts about itself."""

    recipe: str | None = None
    settings: tuple[tuple[str, str], ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    steps: int = 0
    nbytes: int = 0
    header_bytes: int = 0
    step_bytes: int | None = None


def read_origin(path: Path) -> tuple[Origin, list[str]]:
    """Read RUN/ledger.zo; a damaged or missing ledger gives an empty Origin and a sentence for the page."""
    from zerothorder.ledger.reader import read  # with torch; the rest of the report needs none

    if not path.is_file():
        return Origin(), [f"{path.name} is missing, so this run cannot be replayed."]
    try:
        contents = read(path)
    except UsageError as error:
        return Origin(), [f"{error}."]
    header, nbytes = contents.header, path.stat().st_size
    header_bytes, step_bytes = len(header.encode()), bytes_a_step(contents)
    facts = [
        ("steps written", f"{len(contents.entries):,}"),
        ("size", text.size(nbytes)),
        ("header", f"{header_bytes:,} bytes"),
        *((("a step", f"{step_bytes:,} bytes"),) if step_bytes else ()),
        ("base model", header.base),
        ("fine-tuned model", contents.final or "no end record yet"),
        ("precision", header.precision),
        ("generator", f"version {header.generator}"),
        *((f"made with {name}", text.plain(value)) for name, value in header.origin.items() if name != "model"),
    ]
    if contents.torn:
        facts.append(("cut last entry", f"{contents.torn} bytes; resuming drops it"))
    settings = tuple(text.settings(header.settings))
    return Origin(header.recipe, settings, tuple(facts), len(contents.entries), nbytes, header_bytes, step_bytes), []


def bytes_a_step(contents: "Contents") -> int | None:
    """What an entry takes; None without one.

    The usual size, not a mean: the first entry also writes the rates, and neither the header nor the end record
    belongs to a step, so that `zo plan`, `zo ledger show` and the page say the same of runs of any length.
    """
    from zerothorder.ledger.entry import CHAIN, PREFIX, Codec

    codec = Codec(contents.header.columns, contents.header.groups, contents.header.tags)
    sizes = [PREFIX.size + len(codec.encode(entry)[1]) + CHAIN for entry in contents.entries]
    return statistics.mode(reversed(sizes)) if sizes else None


def commands(run_folder: Path, config: Mapping[str, Any], *, ledger: bool) -> Iterator[tuple[str, str]]:
    """(what it is for, command line): train like this again, replay, verify. With absolute paths: from any folder."""
    run_folder = run_folder.resolve()
    if (line := train_command({**config, "output": str(run_folder)} if config else {})) is not None:
        yield "how it was trained", line
    if ledger:
        base = shlex.quote(text.title(config.get("model"), "BASE"))
        place = shlex.quote(str(run_folder / "ledger.zo"))
        yield "the fine-tuned model again, bit for bit", f"zo replay {base} {place} -o replayed"
        yield "is the ledger whole, and of this base?", f"zo ledger verify {base} {place}"


def train_command(config: Mapping[str, Any]) -> str | None:
    """`zo train` with every setting that is not the default; None for a configuration of something else."""
    from zerothorder.config import TrainConfig

    fields = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    if not config or not set(config) <= set(fields):
        return None
    words = ["zo", "train"]
    for name, value in config.items():
        default = json.loads(json.dumps(fields[name], default=str))  # tuples are lists in the file
        if name in _NOT_REPEATED or value is None or value == default:
            continue
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", *(str(item) for item in (value if isinstance(value, list) else [value]))]
    output = config.get("output")
    return shlex.join([*words, *(["--output", str(output)] if output else [])])
