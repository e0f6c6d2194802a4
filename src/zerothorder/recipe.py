"""Which published method is this? Parts, defaults and a paper; the catalogue finds recipes by name."""

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

from zerothorder.directions import Direction
from zerothorder.estimate import Estimator
from zerothorder.ledger.entry import Rates
from zerothorder.updates import Update


@runtime_checkable
class Recipe(Protocol):
    """A frozen dataclass whose fields are the method's settings; each method of it builds one part.

    `columns` are the named scalars it writes a step besides its terms; `tags` the key tags it uses. Two optional
    methods: `setup(run)` before the first step (masks, calibration, as attachments) and `drive(run, batches)` for
    methods with an outer loop.
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    columns: ClassVar[tuple[str, ...]]
    tags: ClassVar[tuple[str, ...]]

    def direction(self, run_key: bytes) -> Direction: ...

    def estimator(self) -> Estimator: ...

    def update(self) -> Update: ...

    def rates(self, step: int, steps: int) -> Mapping[str, Rates]:
        """Rates of the groups "decay" and "plain" at a step."""
        ...


def settings(recipe: Recipe) -> dict[str, Any]:
    """The recipe's fields, as written into the ledger."""
    import dataclasses

    return dataclasses.asdict(recipe)  # type: ignore[call-overload]
