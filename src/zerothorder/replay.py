"""Rebuild the trained weights from base and ledger: apply the entries, nothing else."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from zerothorder import catalogue, random
from zerothorder.errors import LedgerError, UsageError
from zerothorder.ledger.attachments import Attachments
from zerothorder.ledger.entry import Entry
from zerothorder.ledger.header import check_base
from zerothorder.ledger.reader import Contents, read
from zerothorder.recipe import Recipe
from zerothorder.space import ParameterSpace
from zerothorder.state import State

TERMS = 64
"""Terms applied in one pass over the weights; more would gain little, and progress would be told seldom."""
START = "start"
"""Attachment of tensors that the base does not hold, searched or frozen: their values before the first step."""


def recipe_of(contents: Contents) -> Recipe:
    """The recipe a ledger was written by, with its settings."""
    header = contents.header
    if header.generator != random.VERSION:
        raise LedgerError(f"the ledger uses generator {header.generator}, this zerothorder has {random.VERSION}")
    kind = catalogue.row(header.recipe).recipe
    try:
        return kind(**header.settings)
    except TypeError as error:
        raise LedgerError(
            f"the ledger's recipe {header.recipe!r} has settings that this zerothorder does not know ({error}); "
            "upgrade zerothorder"
        ) from error


def replay(
    model: nn.Module,
    path: Path | str,
    until: int | None = None,
    progress: Callable[[Entry], None] = lambda entry: None,
    terms: int = TERMS,
) -> tuple[ParameterSpace, State, Contents]:
    """Move `model` (at its base weights, in the run's dtype) through the ledger's first `until` steps.

    Bitwise the live run's weights on any CPU, whatever `terms`, how many are applied in one pass; `progress` is called
    for the entries of a pass once it is through. LedgerError: another base, renamed or missing parameters, damage, a
    newer format, a missing attachment.
    """
    contents, space, state, store = _opened(model, path, until)
    apply_entries(contents.entries, contents, space, state, store, str(path), progress, terms)
    return space, state, contents


def replayable(path: Path) -> bool:
    """Whether the weights of a ledger can be rebuilt. Not where a first-order recipe keeps no gradients but their hash
    (`sgd`, `adamw`, `hybrid`), which is so unless they lie beside it."""
    store = Attachments(path.parent / "attachments")
    return all(own.dense_hash is None or store.has(own.dense_hash) for own in read(path).entries)


def moved(model: nn.Module, path: Path | str, since: int = 0, keep: float = 1.0) -> dict[str, Tensor]:
    """How a ledger's steps from `since` on have moved each searched tensor, by site name, float32.

    Σ_k keep^(T-1-k)·(θ_{k+1} - θ_k) over k = since … T-1: with `keep` 1 the difference θ_T - θ_since, below 1 a mean in
    which late steps weigh more. Moves `model`, which stands at the base, to the end. LedgerError as of `replay`, and
    for a `since` with no step after it; UsageError for a `keep` that is not in (0, 1].
    """
    if not 0 < keep <= 1:
        raise UsageError(f"keep is {keep:g}; it is what a step leaves of the sum before it, above 0 and at most 1")
    contents, space, state, store = _opened(model, path)
    if not 0 <= since < len(contents.entries):
        raise LedgerError(f"{path} has {len(contents.entries)} steps, none of them after step {since}; give less")
    last = {site.name: site.parameter.detach().float().clone() for site in space}
    found = {name: torch.zeros_like(tensor) for name, tensor in last.items()}

    def follow(entry: Entry) -> None:
        for site in space:
            now = site.parameter.detach().float().clone()
            if entry.step >= since:
                found[site.name].mul_(keep).add_(now - last[site.name])
            last[site.name] = now

    apply_entries(contents.entries, contents, space, state, store, str(path), follow, terms=1)
    return found


def _opened(
    model: nn.Module, path: Path | str, until: int | None = None
) -> tuple[Contents, ParameterSpace, State, Attachments]:
    """A ledger and a model that stands where its first step does."""
    contents = read(path, until)
    space, state, store = space_of(model, contents), State(), Attachments(Path(path).parent / "attachments")
    load_attached(contents, store, model, space, state, str(path))
    check_base(contents.header, model, space, str(path))
    return contents, space, state, store


def space_of(model: nn.Module, contents: Contents) -> ParameterSpace:
    """The searched tensors a ledger names, found in the model; others are left alone."""
    names = {row[0] for row in contents.header.sites}
    return ParameterSpace.of(model, lambda name: name in names, contents.header.precision)  # type: ignore[arg-type]


def load_attached(
    contents: Contents, store: Attachments, model: nn.Module, space: ParameterSpace, state: State, where: str
) -> None:
    """Attachments made before the first step into the State, START into the weights too, frozen ones by their name in
    `model`; `apply_entries` loads later ones. LedgerError names what is missing or unfit."""
    for step, name, digest in contents.attachments:
        if step == 0:
            state.tensors[name] = beside(store.get(digest, f"{where}: {name!r}"), space)
    homes = dict(model.named_parameters()) | {site.name: site.parameter for site in space}
    with torch.no_grad():
        for name, tensor in state.tensors.get(START, {}).items():
            home = homes.get(name)
            if home is None or home.shape != tensor.shape:
                raise LedgerError(
                    f"{where} starts from its own {name!r}, which does not fit this base; give its own base"
                )
            home.copy_(tensor)


def beside(tensors: Mapping[str, Tensor], space: ParameterSpace) -> dict[str, Tensor]:
    """Tensors by site name, each on its site's device: files are read into the processor's memory."""
    homes = {site.name: site.parameter.device for site in space}
    return {name: tensor.to(homes.get(name, tensor.device)) for name, tensor in tensors.items()}


def apply_entries(
    entries: tuple[Entry, ...],
    contents: Contents,
    space: ParameterSpace,
    state: State,
    store: Attachments,
    where: str,
    progress: Callable[[Entry], None] = lambda entry: None,
    terms: int = TERMS,
) -> None:
    """Apply entries in order, the last ones of `contents`; dense parts and attachments are loaded as they come."""
    recipe = recipe_of(contents)
    direction, update = recipe.direction(bytes.fromhex(contents.header.run_key)), recipe.update()
    first = entries[0].step if entries else len(contents.entries)
    waiting = [attachment for attachment in contents.attachments if attachment[0] >= max(first, 1)]

    def attach(step: int) -> None:
        while waiting and waiting[0][0] <= step:
            _, name, digest = waiting.pop(0)
            state.tensors[name] = beside(store.get(digest, f"{where}: {name!r}"), space)

    for group in _groups(entries, [step for step, _, _ in waiting], terms):
        attach(group[0].step)
        if (digest := group[0].dense_hash) is not None:
            dense = _first_order(store, digest, f"{where}: step {group[0].step}")
            group = [dataclasses.replace(group[0], dense=dense)]
        update.apply_all(group, space, direction, state)
        for entry in group:
            progress(entry)
    attach(len(contents.entries))


def _first_order(store: Attachments, digest: str, what: str) -> dict[str, Tensor]:
    try:
        return store.get(digest, what)
    except LedgerError as error:
        raise LedgerError(f"{error}, or, where its recipe keeps no gradients, train again with the data") from error


def _groups(entries: Iterable[Entry], attached: Sequence[int], terms: int) -> Iterator[list[Entry]]:
    """Consecutive entries that may be applied in one pass: at most `terms` terms, nothing to be loaded in between."""
    group: list[Entry] = []
    for entry in entries:
        alone = entry.dense_hash is not None or entry.step in attached
        full = sum(len(own.terms) for own in group) + len(entry.terms) > terms
        if group and (alone or full or group[-1].dense_hash is not None):
            yield group
            group = []
        group.append(entry)
    if group:
        yield group
