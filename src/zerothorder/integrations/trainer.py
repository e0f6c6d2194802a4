"""`TrainerMixin`: any transformers or TRL trainer, trained by any recipe. Nothing of the trainer is copied."""

import json
import logging
import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zerothorder import catalogue
from zerothorder.data.adapters import adapter_settings
from zerothorder.errors import UsageError
from zerothorder.execution.check import check_sites
from zerothorder.execution.swap import Swap
from zerothorder.integrations.trainer_arguments import settle
from zerothorder.integrations.trainer_loss import TrainerLoss, unheard
from zerothorder.ledger.header import fingerprint
from zerothorder.ledger.lock import claimed
from zerothorder.ledger.writer import cut
from zerothorder.objectives.sequences import base_model
from zerothorder.optimizer import ZerothOrder
from zerothorder.recipe import Recipe
from zerothorder.replay import START
from zerothorder.run import Run

_log = logging.getLogger(__name__)

LEDGER = "ledger.zo"
"""In the trainer's output_dir."""
_STATE = "trainer_state.json"
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

    Logged as ever, at the perturbed weights: the trainer's metrics. `grad_norm` is that of the estimate, |ρ|·√n for n
    weights, or of the gradient (`sgd`, `adamw`: the trainer as ever, for comparison). Added: zo/projected_gradient,
    zo/forwards and zo/tokens (rows and tokens through the model, and through models that give the reward), zo/seconds
    and zo/cpu_seconds (the second of the processor, which a busy machine does not stretch), all since the run began
    and, after a resume, since what was logged last; zo/skipped.

    UsageError where the trainer's arguments or loss cannot be meant (see `trainer_arguments`).
    """

    args: Any
    model: Any
    optimizer: Any
    state: Any

    def __init__(
        self, *args: Any, recipe: str | Recipe = "mezo", begin: Callable[[Run], None] | None = None, **kwargs: Any
    ) -> None:
        if any(kwargs.get("optimizers", (None, None))[:1]):
            raise UsageError("the recipe brings the optimizer; give optimizers=(None, scheduler) or leave it out")
        self._zo_recipe, self._zo_begin = recipe, begin
        self._zo_training = False
        self._zo_resumed: int | None = None
        self._zo_began = self._zo_worked = 0.0
        super().__init__(*args, **kwargs)
        settle(self)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As the trainer's; with a checkpoint the ledger is replayed up to its step, from the base model."""
        self.optimizer = None
        folder = _checkpoint(resume_from_checkpoint, self.args.output_dir)
        self._zo_resumed = None if folder is None else _step_of(folder)
        self.create_optimizer()
        before = {} if folder is None else _counted(folder)
        self._zo_began = time.perf_counter() - before.get("zo/seconds", 0.0)
        self._zo_worked = time.process_time() - before.get("zo/cpu_seconds", 0.0)
        meter = self._zo_optimizer.run.around.meter
        meter.examples, meter.tokens = (int(before.get(name, 0)) for name in ("zo/forwards", "zo/tokens"))
        ledger = self._zo_optimizer.run.ledger
        try:
            result = super().train(None if folder is None else str(folder), *args, **kwargs)  # type: ignore[misc]
        finally:
            ledger.sync()
        if not self.args.load_best_model_at_end:  # which are an earlier step's weights
            ledger.end(fingerprint(self.model))
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
        leaf = self._zo_optimizer.look(partial(own, model, inputs, **kwargs), self.args.device)
        return (leaf, {}) if return_outputs else leaf

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """The trainer's metrics with the run's own."""
        if "loss" in logs and (run := self._zo_optimizer.run).ledger.past:
            last = run.ledger.past[-1]
            size = math.sqrt(sum(scalar * scalar for _, scalar in last.terms))
            logs = logs | {
                "grad_norm": last.notes.get("gradient_norm", size * math.sqrt(run.space.numel)),
                "zo/projected_gradient": last.terms[0][1] if last.terms else math.nan,
                "zo/forwards": run.around.meter.examples,
                "zo/tokens": run.around.meter.tokens,
                "zo/seconds": round(time.perf_counter() - self._zo_began, 3),
                "zo/cpu_seconds": round(time.process_time() - self._zo_worked, 3),
                "zo/skipped": sum(entry.skipped for entry in run.ledger.past),
            }
        super().log(logs, *args, **kwargs)  # type: ignore[misc]

    def _zo_open(self) -> "TrainerOptimizer":
        args, model = self.args, self.model
        path = Path(args.output_dir) / LEDGER
        resume = self._zo_resumed is not None
        if resume and not path.exists():
            raise UsageError(f"there is no {path} to resume from; a checkpoint alone does not hold the run")
        if resume:
            _keep(path, cut(path, self._zo_resumed or 0))
        elif path.exists():
            with claimed(path):
                _keep(path, path.read_bytes())
                path.unlink()
        path.parent.mkdir(parents=True, exist_ok=True)
        recipe = self._zo_recipe
        if isinstance(recipe, str):
            recipe = catalogue.build(recipe, _scheme(model, recipe))
        eps = getattr(recipe, "eps", None)
        if args.bf16 and eps is not None and eps < SMALL:
            _log.warning(
                "bf16=True rounds the losses whose difference a step is made of, and eps %g is small: set bf16=False, "
                "or a larger eps",
                eps,
            )
        found = TrainerOptimizer(
            model, recipe, trainer=self, ledger=path, resume=resume, seed=args.seed, origin=_origin(model)
        )
        for group in found.param_groups:
            group["lr"] = args.learning_rate
            group["weight_decay"] = args.weight_decay if group["name"] == "decay" else 0.0
        if self._zo_begin is not None and not resume:
            self._zo_begin(found.run)
        return found


class TrainerOptimizer(ZerothOrder):
    """What the trainer holds as its optimizer: step() takes the step that compute_loss has evaluated."""

    def __init__(self, model: Any, recipe: Recipe, *, trainer: Any, resume: bool, **named: Any) -> None:
        self.loss = TrainerLoss(trainer)
        super().__init__(model, recipe, objective=self.loss, executor=Swap(), resume=resume, **named)
        self._rates_set = {}  # the trainer's rates, whatever they are
        self.trainer, self.leaves, self.checked = trainer, list[Tensor](), False
        if not resume and base_model(model) is not model:
            # an adapter begins at random weights, which no base holds
            self.run.attach(START, {site.name: site.parameter for site in self.run.space})

    def look(self, loss: Any, device: Any) -> Tensor:
        """The step's points on one micro-batch, given as a callable. What comes back is the mean of their losses as a
        leaf: backward() reaches no weight, and leaves there by what the trainer multiplied its loss."""
        if not self.checked and self.run.recipe.tags:  # without draws no weight is ever exchanged
            self.check(loss)
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
        if any(leaf.grad is None for leaf in leaves):
            self.accumulated.clear()
            raise UsageError("the trainer took a step without backward(); its training_step must be transformers' own")
        entry = self.accumulated.finish([float(leaf.grad) for leaf in leaves])  # type: ignore[arg-type]
        return torch.tensor(entry.notes.get("loss", math.nan))


def _origin(model: Any) -> dict[str, Any]:
    """What `zo replay` needs to put the searched weights on their base again."""
    base: Any = base_model(model)
    found: dict[str, Any] = {"dtype": str(getattr(base, "dtype", "")).removeprefix("torch.")}
    if type(base).__name__.endswith("ForSequenceClassification"):
        found["head"] = base.config.num_labels
    if base is not model:
        found["adapter"] = adapter_settings(model)
    return found


def _scheme(model: Any, recipe: str) -> str:
    """The scheme whose defaults fit what is trained."""
    kinds = {str(getattr(c, "peft_type", "")).rpartition(".")[2] for c in getattr(model, "peft_config", {}).values()}
    named = {"LORA": "lora", "PREFIX_TUNING": "prefix"}
    wanted = next((scheme for kind, scheme in named.items() if kind in kinds), "full")
    return wanted if wanted in catalogue.row(recipe).schemes else "full"


def _checkpoint(asked: str | bool | None, output: str) -> Path | None:
    """The folder to resume from, as transformers understands the argument."""
    if not asked:
        return None
    if isinstance(asked, str):
        return Path(asked)
    # transformers writes the state last: a folder without it was being written when the run was killed
    whole = [p for p in Path(output).glob("checkpoint-*") if p.name[11:].isdigit() and (p / _STATE).exists()]
    steps = [int(p.name.partition("-")[2]) for p in whole]
    if not steps:
        raise UsageError(f"there is no checkpoint in {output} to resume from; leave resume_from_checkpoint out")
    return Path(output) / f"checkpoint-{max(steps)}"


def _step_of(folder: Path) -> int:
    try:
        return int(json.loads((folder / _STATE).read_text())["global_step"])
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"{folder} is not a checkpoint of a trainer: it has no {_STATE} ({error})") from error


def _counted(folder: Path) -> dict[str, float]:
    """What the run had counted when the checkpoint was written, as it was logged last."""
    history = json.loads((folder / _STATE).read_text()).get("log_history", [])
    return next((row for row in reversed(history) if "zo/tokens" in row), {})


def _keep(path: Path, data: bytes | None) -> None:
    """Put an older ledger beside the new one; nothing where `data` is None."""
    if data is None:
        return
    number = next(n for n in range(1, 10**6) if not path.with_suffix(f".{n}.zo").exists())
    path.with_suffix(f".{number}.zo").write_bytes(data)
    _log.warning("the steps of an earlier run are kept in %s", path.with_suffix(f".{number}.zo"))


__all__ = ["LEDGER", "TrainerMixin", "TrainerOptimizer"]
