"""The loss of a transformers trainer as an objective. What it computes under no_grad is a constant of a step."""

import functools
from collections import defaultdict
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import nn

from zerothorder.key import Key
from zerothorder.objectives.sequences import base_model
from zerothorder.point import Values


@dataclass
class Prepared:
    """A batch's loss as a callable, and the outputs of its constant forwards in the order of their calls."""

    loss: Callable[[], Any]
    constants: list[Any] = field(default_factory=list[Any])
    told: bool = False


@dataclass
class TrainerLoss:
    """One number: what the trainer's own compute_loss gives for a batch at the weights as they are.

    Forwards that it runs under torch.no_grad() are constants to autograd (the reference's log-probabilities, the KL
    term of KTO). They are so here: computed once a batch, at θ, and recalled at every further point, or the step would
    follow the slope of another function. What is made constant by detach() cannot be told; `trainer_arguments` refuses
    the losses that do so.

    The trainer's metrics are those of the first point; at the others it speaks to nobody.
    """

    constant_without_grad: ClassVar[bool] = True

    trainer: Any

    def prepare(self, model: nn.Module, batch: Callable[[], Any], key: Key) -> Prepared:
        """The loss of a batch; nothing is computed yet."""
        return Prepared(batch)

    def evaluate(self, model: nn.Module, prepared: Prepared) -> Values:
        """The loss at the weights as they are, one value."""
        with ExitStack() as stack:
            recall = _Recall(prepared.constants)
            for module in (base_model(model), getattr(self.trainer, "ref_model", None)):
                if isinstance(module, nn.Module):
                    stack.enter_context(recall.listening(module))
            if prepared.told:
                stack.enter_context(unheard(self.trainer))
            loss = prepared.loss()
        prepared.told = True
        return Values.of(loss)


class _Recall:
    """Answers a model's forwards under no_grad from memory, where it has them."""

    def __init__(self, constants: list[Any]) -> None:
        self.constants, self.at = constants, 0

    @contextmanager
    def listening(self, module: nn.Module) -> Generator[None]:
        own, placed = module.forward, "forward" in vars(module)

        @functools.wraps(own)
        def forward(*args: Any, **kwargs: Any) -> Any:
            if torch.is_grad_enabled():
                return own(*args, **kwargs)
            at, self.at = self.at, self.at + 1
            if at < len(self.constants):
                return self.constants[at]
            self.constants.append(own(*args, **kwargs))
            return self.constants[at]

        module.forward = forward  # type: ignore[method-assign]
        try:
            yield
        finally:
            if placed:
                module.forward = own  # type: ignore[method-assign]
            else:
                del module.forward


@contextmanager
def unheard(trainer: Any) -> Generator[None]:
    """Metrics, token counts and lines that the trainer notes inside the block are dropped."""
    metrics, tokens = getattr(trainer, "_metrics", None), getattr(trainer, "_total_train_tokens", None)
    if not (isinstance(metrics, dict) and all(isinstance(own, dict) for own in metrics.values())):
        metrics = None  # somebody else's, under the same name
    # CPO and its kin keep metrics behind a method
    methods = [name for name in ("store_metrics", "log") if hasattr(trainer, name)]
    placed = {name: vars(trainer)[name] for name in methods if name in vars(trainer)}
    for name in methods:
        setattr(trainer, name, lambda *args, **kwargs: None)
    if metrics is not None:
        # of the kinds the trainer has, with what they hold: some metrics build on the last ones
        trainer._metrics = {
            mode: defaultdict(list, {k: list(v) for k, v in own.items()}) for mode, own in metrics.items()
        }
    try:
        yield
    finally:
        for name in methods:
            delattr(trainer, name)
        for name, own in placed.items():  # a block within a block
            setattr(trainer, name, own)
        if metrics is not None:
            trainer._metrics = metrics
        if tokens is not None:
            trainer._total_train_tokens = tokens
