"""Objectives made of others: micro-batches, and a closure that returns one number."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zerothorder.errors import UsageError
from zerothorder.key import Key
from zerothorder.objectives import Objective
from zerothorder.point import Values


@dataclass(frozen=True)
class MicroBatches:
    """Gradient accumulation: an objective evaluated `rows` examples at a time, same key and point for all.

    The values are those of the whole batch; only the activations are smaller.
    """

    objective: Any
    rows: int

    def prepare(self, model: nn.Module, batch: Any, key: Key) -> list[Any]:
        """The batch in pieces, each prepared."""
        pieces = [batch[at : at + self.rows] for at in range(0, len(batch), self.rows)]
        return [self.objective.prepare(model, piece, key) for piece in pieces]

    def evaluate(self, model: nn.Module, prepared: list[Any]) -> Values:
        """The pieces' values, joined in order."""
        return Values.joined([self.objective.evaluate(model, piece) for piece in prepared])

    def pieces(self, batches: Mapping[str, list[Any]]) -> list[tuple[Any, dict[str, Any]]]:
        """(objective, batches) of each piece, for an executor that repeats them: `rows` examples of every point."""
        count = max(len(pieces) for pieces in batches.values())
        return [(self.objective, {n: own[at] for n, own in batches.items() if at < len(own)}) for at in range(count)]


class Closure:
    """A callable that computes the loss with the model it closes over. Refused if it calls backward()."""

    def prepare(self, model: nn.Module, batch: Callable[[], Any], key: Key) -> Callable[[], Any]:
        """The closure itself is the batch."""
        return batch

    def evaluate(self, model: nn.Module, prepared: Callable[[], Any]) -> Values:
        """The closure's loss: a number, a tensor of per-example losses, or an output with `.loss`."""
        with _no_backward():
            result = prepared()
        loss = getattr(result, "loss", result)
        if not isinstance(loss, Tensor | float | int):
            raise UsageError(f"the closure returned a {type(loss).__name__}; return the loss as a tensor or a number")
        return Values.of(loss)


class _no_backward:
    """Inside, Tensor.backward and autograd.grad raise in a sentence."""

    def __enter__(self) -> None:
        def refuse(*args: Any, **kwargs: Any) -> None:
            raise UsageError(
                "the closure calls backward(), but zeroth-order steps use the loss alone; return the loss instead"
            )

        tensor: Any = Tensor
        self._own: tuple[Any, Any, Any] = (tensor.backward, torch.autograd.backward, torch.autograd.grad)
        Tensor.backward = torch.autograd.backward = torch.autograd.grad = refuse  # type: ignore[assignment]

    def __exit__(self, *error: Any) -> None:
        Tensor.backward, torch.autograd.backward, torch.autograd.grad = self._own  # type: ignore[assignment]


__all__ = ["Closure", "MicroBatches", "Objective"]
