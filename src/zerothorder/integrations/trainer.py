"""`TrainerMixin`: any transformers or TRL trainer, trained by any recipe. Nothing of the trainer is copied."""

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from copy import copy
from pathlib import Path
from typing import Any

import torch

from zerothorder import catalogue
from zerothorder.directions import expected_norm
from zerothorder.errors import LedgerError, UsageError
from zerothorder.integrations.trainer_arguments import advise, given, settle
from zerothorder.integrations.trainer_checkpoint import checkpoint, counted, ledger_at, step_of
from zerothorder.integrations.trainer_optimizer import TrainerOptimizer, origin
from zerothorder.integrations.trainer_rewards import Rewards
from zerothorder.ledger.header import fingerprint
from zerothorder.objectives.head import packed_head_input
from zerothorder.recipe import Recipe
from zerothorder.run import Run

_log = logging.getLogger(__name__)

SMALL = 1e-4
"""Perturbations below which a loss computed in bfloat16 is mostly rounding."""


class TrainerMixin:
    """Before any subclass of transformers.Trainer; `recipe` is a name of the catalogue or a recipe. `begin` is called
    with a new run before its first step, for what a recipe wants attached (`zerothorder.recipes.zopro.guide`).

        class ZerothOrderDPOTrainer(zo.TrainerMixin, trl.DPOTrainer):
            pass

        ZerothOrderDPOTrainer(model, args=DPOConfig(...), train_dataset=..., recipe="low-rank").train()

    The trainer's own training_step runs; inside it compute_loss evaluates the step's points in place of one loss, and
    gives backward() a number that belongs to no weight. The optimizer's step() then writes and applies the ledger's
    entry. Learning rate, schedule and weight decay are the trainer's; ε and the rest are the recipe's. The run's
    ledger is `output_dir/ledger.zo`, from which `resume_from_checkpoint` rebuilds the weights bit for bit.

    Logged as ever, at the perturbed weights: the trainer's metrics. `grad_norm` is the estimate's, as long as it is to
    be expected (|ρ|·√n for a plain draw over n weights, |ρ|·‖mu‖ for ZOPrO), or the gradient's (`sgd`, `adamw`, which
    run as the trainer would but for what `trainer_arguments` switches off). Added: zo/projected_gradient (ρ),
    zo/forwards and zo/tokens (rows and tokens through the model, and through models that give the reward), zo/seconds
    and zo/cpu_seconds (the second of the processor, which a busy machine does not stretch), all since the run began
    and, after a resume, since what was logged last; zo/skipped.

    UsageError where the trainer's arguments or loss cannot be meant (see `trainer_arguments`).
    """

    args: Any
    model: Any
    optimizer: Any
    state: Any

    def __init_subclass__(cls, **kwargs: Any) -> None:
        before = cls.__mro__[: cls.__mro__.index(TrainerMixin)]
        if any((own.__name__, own.__module__) == ("Trainer", "transformers.trainer") for own in before):
            raise UsageError(f"{cls.__name__} has TrainerMixin after its trainer; put it first, before every trainer")
        super().__init_subclass__(**kwargs)

    def __init__(
        self, *args: Any, recipe: str | Recipe = "mezo", begin: Callable[[Run], None] | None = None, **kwargs: Any
    ) -> None:
        if any(own is not None for own in (*(kwargs.get("optimizers") or ()), kwargs.get("optimizer_cls_and_kwargs"))):
            raise UsageError(
                "the recipe brings the optimizer, and a scheduler drives the one it was made with; leave both out, and "
                "set learning_rate, lr_scheduler_type and lr_scheduler_kwargs in the training arguments"
            )
        self._zo_recipe, self._zo_begin = recipe, begin
        self._zo_training = False
        self._zo_resumed: int | None = None
        self._zo_began = self._zo_worked = 0.0
        if (asked := given((*args, *kwargs.values()))) is not None:
            own = copy(asked)  # another trainer may be made with the caller's
            args = tuple(own if value is asked else value for value in args)
            kwargs = {name: own if value is asked else value for name, value in kwargs.items()}
            settle(self, own, recipe)  # before the trainer acts on them
        super().__init__(*args, **kwargs)
        settle(self, self.args, recipe)  # those it made itself, and the model as it left it
        advise(self.args)
        self._zo_rewards = Rewards(self)

    def train(self, resume_from_checkpoint: str | Path | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As the trainer's; with a checkpoint the ledger is replayed up to its step, from the base model."""
        self.optimizer = None
        folder = checkpoint(resume_from_checkpoint, self.args.output_dir)
        self._zo_resumed = None if folder is None else step_of(folder)
        self.create_optimizer()
        before = {} if folder is None else counted(folder)
        self._zo_began = time.perf_counter() - before.get("zo/seconds", 0.0)
        self._zo_worked = time.process_time() - before.get("zo/cpu_seconds", 0.0)
        meter = self._zo_optimizer.run.around.meter
        meter.examples, meter.tokens = (int(before.get(name, 0)) for name in ("zo/forwards", "zo/tokens"))
        ledger = self._zo_optimizer.run.ledger
        try:
            with packed_head_input(self.model):
                result = super().train(None if folder is None else str(folder), *args, **kwargs)  # type: ignore[misc]
            if not self.args.load_best_model_at_end:  # which are an earlier step's weights
                ledger.end(fingerprint(self.model))
        finally:
            ledger.close()
        return result

    def create_optimizer(self, model: Any = None) -> Any:
        """The run: a new ledger in output_dir, or the one that is resumed."""
        if self.optimizer is None:
            self.optimizer = self._zo_optimizer = self._zo_open()
        return self.optimizer

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """The trainer's own, told apart from an evaluation; what it generates is counted too."""
        self._zo_training = True
        run = self._zo_optimizer.run
        run.steps = self.state.max_steps  # known once the trainer has counted its batches
        try:
            with ExitStack() as watched:
                for model in (self.model, *self._zo_judges()):
                    watched.enter_context(run.around.meter.watching(model))
                watched.enter_context(self._zo_rewards.listening())
                return super().training_step(*args, **kwargs)  # type: ignore[misc]
        finally:
            self._zo_training = False

    def _zo_judges(self) -> list[Any]:
        """Models that give the reward: as TRL has them, or behind a function that says so (`policies.scored_by`)."""
        found = [getattr(own, "model", own) for own in getattr(self, "reward_funcs", ())]
        return [own for own in found if isinstance(own, torch.nn.Module)]

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        """In training the step's points on this micro-batch; else the trainer's own."""
        own = super().compute_loss  # type: ignore[misc]
        if not self._zo_training:
            return own(model, inputs, return_outputs=return_outputs, **kwargs)
        # each evaluation has a batch of its own: a loss may take the labels out of it
        leaf = self._zo_optimizer.look(lambda: own(model, copy(inputs), **kwargs), self.args.device)
        return (leaf, {}) if return_outputs else leaf

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """The trainer's metrics with the run's own."""
        if "loss" in logs and (run := self._zo_optimizer.run).ledger.past:
            last = run.ledger.past[-1]
            norm = last.notes.get("gradient_norm")
            logs = logs | {
                "grad_norm": expected_norm(run.direction, run.space, last.terms, run.state) if norm is None else norm,
                "zo/projected_gradient": last.projected_gradient,
                "zo/forwards": run.around.meter.examples,
                "zo/tokens": run.around.meter.tokens,
                "zo/seconds": round(time.perf_counter() - self._zo_began, 3),
                "zo/cpu_seconds": round(time.process_time() - self._zo_worked, 3),
                "zo/skipped": sum(entry.skipped for entry in run.ledger.past),
            }
        super().log(logs, *args, **kwargs)  # type: ignore[misc]

    def _zo_open(self) -> "TrainerOptimizer":
        args, model, recipe = self.args, self.model, self._zo_recipe
        resume = self._zo_resumed is not None
        if isinstance(recipe, str):
            recipe = catalogue.build(recipe, _scheme(model, recipe))
        eps = getattr(recipe, "eps", None)
        if args.bf16 and eps is not None and eps < SMALL:
            _log.warning(
                "bf16=True rounds the losses whose difference a step is made of, and eps %g is small: set bf16=False, "
                "or a larger eps",
                eps,
            )
        try:
            with ledger_at(args.output_dir, self._zo_resumed) as path:
                found = TrainerOptimizer(
                    model, recipe, trainer=self, ledger=path, resume=resume, seed=args.seed, origin=origin(model)
                )
        except LedgerError as error:
            if not resume or not hasattr(self, "_zo_optimizer"):
                raise
            raise LedgerError(
                f"{error}; this trainer has trained before, which moved its model, and a run is rebuilt from the base "
                "model: make the trainer anew, with the model as it was, and resume with that"
            ) from error
        for group in found.param_groups:
            group["lr"] = args.learning_rate
            group["weight_decay"] = args.weight_decay if group["name"] == "decay" else 0.0
        if self._zo_begin is not None and not resume:
            self._zo_begin(found.run)
        return found


def _scheme(model: Any, recipe: str) -> str:
    """The scheme whose defaults fit what is trained."""
    kinds = {str(getattr(c, "peft_type", "")).rpartition(".")[2] for c in getattr(model, "peft_config", {}).values()}
    named = {"LORA": "lora", "PREFIX_TUNING": "prefix"}
    wanted = next((scheme for kind, scheme in named.items() if kind in kinds), "full")
    return wanted if wanted in catalogue.row(recipe).schemes else "full"


__all__ = ["TrainerMixin"]
