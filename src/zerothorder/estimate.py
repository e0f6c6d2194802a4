"""Which points, and what do their values mean? The step an estimator sees and the contract it keeps."""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass

from zerothorder.key import Key
from zerothorder.ledger.entry import Entry, Rates
from zerothorder.point import Estimate, Point, Values
from zerothorder.state import State

__all__ = ["Estimate", "Estimator", "Step"]


@dataclass(frozen=True)
class Step:
    """What an estimator may know: its place in the run of `steps` (0: not known), the rates, the written past, and a
    view of the State."""

    index: int
    rates: Mapping[str, Rates]
    past: Sequence[Entry]
    state: State
    steps: int = 0

    @property
    def lr(self) -> float:
        """The largest learning rate of any group."""
        return max(rate.lr for rate in self.rates.values())

    def key(self, draw: int = 0, tag: str = "z") -> Key:
        """The key of this step's draw."""
        return Key(tag, self.index, draw)


Estimator = Callable[[Step], Generator[list[Point], list[Values], Estimate]]
"""A generator over one step: yields lists of points, is sent their values, returns the estimate.

It has no memory of its own: history is `step.past`. It may yield again when the next points depend on the values.
"""
