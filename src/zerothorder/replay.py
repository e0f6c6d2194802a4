"""Rebuild the trained weights from base and ledger: apply the entries, nothing else."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from torch import nn

from zerothorder import catalogue, random
from zerothorder.errors import LedgerError
from zerothorder.ledger.attachments import Attachments
from zerothorder.ledger.entry import Entry
from zerothorder.ledger.header import check_base
from zerothorder.ledger.reader import Contents, read
from zerothorder.recipe import Recipe
from zerothorder.space import ParameterSpace
from zerothorder.state import State


def recipe_of(contents: Contents) -> Recipe:
    """The recipe a ledger was written by, with its settings."""
    header = contents.header
    if header.generator != random.VERSION:
        raise LedgerError(
            f"the ledger uses generator {header.generator}, this zerothorder has {random.VERSION}"
        )
    return catalogue.row(header.recipe).recipe(**header.settings)


def replay(
    model: nn.Module,
    path: Path | str,
    until: int | None = None,
    progress: Callable[[Entry], None] = lambda entry: None,
) -> tuple[ParameterSpace, State, Contents]:
    """Move `model` (at its base weights, in the run's dtype) through the ledger's first `until` steps.

    Bitwise the live run's weights on any CPU. LedgerError: another base, renamed or missing parameters, damage,
    a newer format, a missing attachment.
    """
    contents = read(path, until)
    space = space_of(model, contents)
    check_base(contents.header, model, space, str(path))
    state = State()
    store = Attachments(Path(path).parent / "attachments")
    for name, digest in contents.attached.items():
        state.tensors[name] = store.get(digest, f"{path}: {name!r}")
    apply_entries(contents.entries, contents, space, state, store, str(path), progress)
    return space, state, contents


def space_of(model: nn.Module, contents: Contents) -> ParameterSpace:
    """The searched tensors a ledger names, found in the model; others are left alone."""
    names = {row[0] for row in contents.header.sites}
    return ParameterSpace.of(model, lambda name: name in names, contents.header.precision)  # type: ignore[arg-type]


def apply_entries(
    entries: tuple[Entry, ...],
    contents: Contents,
    space: ParameterSpace,
    state: State,
    store: Attachments,
    where: str,
    progress: Callable[[Entry], None] = lambda entry: None,
) -> None:
    """Apply entries in order, loading dense parts as they come."""
    recipe = recipe_of(contents)
    direction, update = recipe.direction(bytes.fromhex(contents.header.run_key)), recipe.update()
    for entry in entries:
        if entry.dense_hash is not None:
            dense = store.get(entry.dense_hash, f"{where}: step {entry.step}")
            entry = dataclasses.replace(entry, dense=dense)
        update.apply(entry, space, direction, state)
        progress(entry)
