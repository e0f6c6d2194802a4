"""Text examples and what the text objectives share: a prepared batch that can be cut by example."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import nn

from zerothorder.key import Key
from zerothorder.objectives.sequences import Tokens


class TextExample(Protocol):
    """One row in token ids: a prompt, the answers that may follow it, and which of them is right."""

    @property
    def prompt(self) -> Tokens: ...

    @property
    def answers(self) -> Sequence[Tokens]: ...

    @property
    def label(self) -> int: ...

    @property
    def references(self) -> Sequence[str]: ...


Examples = Sequence[TextExample]


@dataclass(frozen=True)
class TextObjective:
    """Prepares nothing, cuts by example. `pad_id` fills the shorter rows."""

    pad_id: int

    def prepare(self, model: nn.Module, batch: Examples, key: Key) -> Examples:
        """The examples as they are."""
        return tuple(batch)

    def count(self, prepared: Examples) -> int:
        """Number of prepared examples."""
        return len(prepared)

    def token_count(self, prepared: Examples) -> int:
        """Tokens of the prepared examples with their padding: rows times the longest."""
        return len(prepared) * max(len(row.prompt) + max(map(len, row.answers), default=0) for row in prepared)

    def select(self, prepared: Examples, rows: Sequence[int]) -> Examples:
        """Some of the prepared examples."""
        return tuple(prepared[row] for row in rows)
