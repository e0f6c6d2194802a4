"""What a trainer of transformers holds as its optimizer: its points are evaluated inside the trainer's compute_loss."""

import logging
import math
from typing import Any

import torch
from torch import Tensor

from zerothorder.data.adapters import adapter_settings
from zerothorder.errors import UsageError
from zerothorder.execution.check import check_sites
from zerothorder.execution.swap import Swap
from zerothorder.integrations.trainer_loss import TrainerLoss, unheard
from zerothorder.objectives.sequences import base_model
from zerothorder.optimizer import ZerothOrder
from zerothorder.recipe import Recipe
from zerothorder.replay import START

_log = logging.getLogger(__name__)


class TrainerOptimizer(ZerothOrder):
    """step() takes the step that compute_loss has evaluated; `origin` tells `zo replay` of the model it began at."""

    def __init__(self, model: Any, recipe: Recipe, *, trainer: Any, resume: bool, **named: Any) -> None:
        self.loss = TrainerLoss(trainer)
        super().__init__(model, recipe, objective=self.loss, executor=Swap(), resume=resume, **named)
        self._rates_set = {}  # the trainer's rates, whatever they are
        self.trainer, self.leaves, self.checked = trainer, list[Tensor](), False
        if not resume and base_model(model) is not model:
            # adapters begin at weights that no base holds, a trainer's frozen copy of one as a reference among them
            frozen = {name: own for other in _frozen(model) for name, own in _tensors_of(model, other).items()}
            self.run.attach(START, {site.name: site.parameter for site in self.run.space} | frozen)

    def look(self, loss: Any, device: Any) -> Tensor:
        """The step's points on one micro-batch, given as a callable. What comes back is the mean of their losses as a
        leaf: backward() reaches no weight, and leaves there by what the trainer multiplied its loss."""
        if not self.checked and self.run.recipe.tags:  # without draws no weight is ever exchanged
            self.check(loss)
        grads = [leaf.grad for leaf in self.leaves]
        if all(own is not None for own in grads):  # backward() has been: the trainer has said what each batch counts
            self.accumulated.weigh([float(own) for own in grads])  # type: ignore[arg-type]
        values = self.accumulated.add(loss, self._rates())
        mean = sum(own.mean() for own in values) / len(values)
        self.leaves.append(torch.tensor(mean, device=device, requires_grad=True))
        return self.leaves[-1]

    def check(self, loss: Any) -> None:
        """Whether weights are exchanged where they are read: on the first batch, against a copy."""
        with unheard(self.trainer):
            found = check_sites(self.run.around, self.loss, loss, mode="joint")
        for sentence in found.sentences():
            _log.warning(sentence)
        self.run.executor = Swap(found.owners)
        self.checked = True

    def step(self, closure: Any = None) -> Tensor:  # type: ignore[override]
        """Write and apply the entry of the micro-batches since the last step."""
        leaves, self.leaves = self.leaves, []
        if not leaves:
            raise UsageError(
                "the trainer took a step without compute_loss(); its training_step computes its loss itself, where no "
                "other point can be evaluated: use a trainer that has it in compute_loss"
            )
        if any(leaf.grad is None for leaf in leaves):
            self.accumulated.clear()
            raise UsageError("the trainer took a step without backward(); its training_step must be transformers' own")
        entry = self.accumulated.finish([float(leaf.grad) for leaf in leaves])  # type: ignore[arg-type]
        return torch.tensor(entry.notes.get("loss", math.nan))


def origin(model: Any) -> dict[str, Any]:
    """What `zo replay` needs to put the searched weights on their base again."""
    base: Any = base_model(model)
    found: dict[str, Any] = {"dtype": str(getattr(base, "dtype", "")).removeprefix("torch.")}
    if type(base).__name__.endswith("ForSequenceClassification"):
        found["head"] = base.config.num_labels
    if base is not model:
        found["adapter"] = adapter_settings(model, model.active_adapter)
        if others := _frozen(model):
            found["adapters"] = {name: adapter_settings(model, name) for name in others}
    return found


def _frozen(model: Any) -> list[str]:
    """Names of the adapters that stand beside the one that is trained."""
    return [name for name in model.peft_config if name != model.active_adapter]


def _tensors_of(model: Any, adapter: str) -> dict[str, Tensor]:
    return {name: own.detach() for name, own in model.named_parameters() if adapter in name.split(".")}
