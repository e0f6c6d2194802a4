"""The base model of a ledger, loaded as the run had it; and a ledger's steps applied to it. For replay and verify."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerothorder.errors import LedgerError, UsageError

if TYPE_CHECKING:
    from zerothorder.ledger.reader import Contents


@dataclass(frozen=True)
class Base:
    """A model at its base weights, and its tokenizer."""

    model: Any
    tokenizer: Any


def dtype_of(contents: "Contents") -> str:
    """The dtype a run was made in: as its origin says, else that of most of its sites."""
    said = contents.header.origin.get("dtype")
    return str(said or Counter(row[2] for row in contents.header.sites).most_common(1)[0][0])


def load_base(name: str, contents: "Contents", dtype: str | None, device: str, trust_remote_code: bool) -> Base:
    """BASE (a packaged name, a folder, a hub id) in the run's dtype, with the adapter of the run's scheme."""
    from zerothorder.data import Verbalizers, load_model, name_classes
    from zerothorder.data.adapters import with_adapter
    from zerothorder.integrations.peft import apply_scheme

    if (Path(name) / "ledger.zo").exists():
        raise UsageError(f"{name} is the folder of a run; name the model that the run started from")
    origin = contents.header.origin
    loaded = load_model(
        name, dtype or dtype_of(contents), device, head=origin.get("head"), trust_remote_code=trust_remote_code
    )
    if classes := tuple(map(str, origin.get("classes", ()))):
        name_classes(loaded.model, Verbalizers(classes, classes))
    if "adapter" in origin:  # a trainer's run; its start is an attachment
        return Base(with_adapter(loaded.model, origin["adapter"], origin.get("adapters", {})), loaded.tokenizer)
    scheme = str(origin.get("scheme", "full"))
    return Base(apply_scheme(loaded.model, scheme, bytes.fromhex(contents.header.run_key)), loaded.tokenizer)


def replayed(
    base: Base, path: Path, contents: "Contents", until: int | None, progress: Callable[[str, int, int], None]
) -> str:
    """Move the model through the ledger; returns the hash of its weights, checked against the end record."""
    from zerothorder.ledger.header import fingerprint
    from zerothorder.replay import replay

    total = len(contents.entries) if until is None else until
    progress("replaying", 0, max(total, 1))
    replay(base.model, path, until, lambda entry: progress("replaying", entry.step + 1, total))
    progress("replaying", 1, 1)
    found = fingerprint(base.model)
    if contents.final is not None and total == len(contents.entries) and found != contents.final:
        raise LedgerError(
            f"replaying {path} leads to weights {found[:12]}…, but its end record says {contents.final[:12]}…; "
            "the base or this installation is not the run's"
        )
    return found
