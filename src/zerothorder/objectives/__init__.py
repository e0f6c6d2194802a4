"""What is the value? Always minimised, pure at a given model, float32 or better."""

from typing import Any, Protocol, runtime_checkable

from torch import nn

from zerothorder.key import Key
from zerothorder.point import Values


@runtime_checkable
class Objective(Protocol):
    """A function of the model and a batch.

    `prepare` runs once a step at θ (reference log-probabilities, generations); `evaluate` is pure. An objective
    whose prepared batch can be cut by example also has `select(prepared, rows)`, where a row may be asked for more
    than once, and `count(prepared)`, and may tell `token_count(prepared)`, padding included; one that judges all
    points together has `compare(list of Values)`. The gradient of Σ weight·value / Σ weight comes from autograd where
    the values keep their graph (`Values.of` does), or from the objective's own `gradient(model, prepared)`, Values with
    a tensor for every site.

    An objective whose own code runs forwards under torch.no_grad() because they are constants of its loss (a loss
    written for autograd) says so by `constant_without_grad = True`: gradients are then enabled while it is evaluated,
    though no weight asks for one, and `Swap` leaves forwards at θ that run where they are off.
    """

    def prepare(self, model: nn.Module, batch: Any, key: Key) -> Any:
        """What `evaluate` needs, computed once at θ."""
        ...

    def evaluate(self, model: nn.Module, prepared: Any) -> Values:
        """Per-example values at the model as it is now."""
        ...
