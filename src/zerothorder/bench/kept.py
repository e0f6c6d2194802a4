"""What stays of a run beside its result: the ledger, compressed, and what it names by hash."""

import gzip
from pathlib import Path
from typing import Any

from zerothorder.ledger.attachments import write_durably
from zerothorder.ledger.reader import read

LEDGER, ATTACHMENTS = "ledger.zo.gz", "attachments"


def keep_ledger(run: Path, folder: Path) -> dict[str, Any]:
    """The run's ledger, compressed, in the cell's folder; what it refers to by hash in one folder for all cells.
    Nothing of a run with gradients, which no ledger can repeat."""
    ledger = run / "ledger.zo"
    if any(entry.dense_hash is not None for entry in read(ledger).entries):
        return {}
    data = gzip.compress(ledger.read_bytes(), mtime=0)
    write_durably(folder / LEDGER, data)
    store = folder.parents[2] / ATTACHMENTS
    for path in sorted((run / ATTACHMENTS).glob("*")):
        store.mkdir(exist_ok=True)
        write_durably(store / path.name, path.read_bytes())
    return {"ledger_bytes": len(data)}
