"""`ZerothOrder`: a torch optimizer whose step needs no gradient. Any PyTorch loop stays as it is."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zerothorder import catalogue
from zerothorder.accumulation import Accumulation
from zerothorder.errors import LedgerError, UsageError
from zerothorder.execution import Executor
from zerothorder.execution.batched import Batched
from zerothorder.ledger.attachments import Attachments
from zerothorder.ledger.entry import Entry, Rates, float32
from zerothorder.ledger.header import check_base
from zerothorder.ledger.reader import read
from zerothorder.ledger.snapshot import load_snapshot, save_snapshot
from zerothorder.ledger.writer import Ledger
from zerothorder.objectives import Objective
from zerothorder.objectives.wrap import Closure
from zerothorder.recipe import Recipe
from zerothorder.replay import apply_entries, load_attached
from zerothorder.run import GROUPS, Run
from zerothorder.space import ParameterSpace
from zerothorder.state import State

_NOTHING = object()
"""What step() got where nothing was given; None may be a batch."""


class ZerothOrder(torch.optim.Optimizer):
    """Searches the trainable parameters of `model` with a recipe.

    `step(batch)` evaluates `objective` on the batch; `step(closure)` a callable that returns the loss and does not
    call backward(). Learning rate and weight decay live in `param_groups` ("decay" for matrices, "plain" for
    biases and norms), so torch's schedulers work; what was applied stands in the ledger. With `ledger` a path, the
    run is written there. A file that exists is refused, so that no run is added to by accident; with `resume=True` it
    must exist: its steps are replayed on `model`, which must be the base they started from, and the run goes on.

    `origin` is noted in a new ledger's header: names and versions, for people and for `zo replay`.

    Further keyword arguments are the recipe's settings: `ZerothOrder(model, "mezo", lr=1e-6, eps=1e-3)`.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: str | Recipe = "mezo",
        *,
        objective: Objective | None = None,
        executor: Executor | None = None,
        ledger: Path | str | None = None,
        resume: bool = False,
        seed: int = 0,
        steps: int = 0,
        precision: Any = "residual",
        origin: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        if not isinstance(model, nn.Module):
            given = isinstance(model, Iterable) and not isinstance(model, str)
            what = "its parameters" if given else f"a {type(model).__name__}"
            raise UsageError(
                f"ZerothOrder searches a module, and got {what}: pass the model itself, ZerothOrder(model)"
            )
        built = catalogue.build(recipe, **settings) if isinstance(recipe, str) else recipe
        if not isinstance(recipe, str) and settings:
            raise UsageError(f"settings {sorted(settings)} are given beside a finished recipe; set them in the recipe")
        space = ParameterSpace.of(model, precision=precision)
        path = None if ledger is None else Path(ledger)
        _check_place(path, resume)
        written, state = self._resume(path, model, space) if path is not None and resume else (None, State())
        self._closures = objective is None
        self.run = Run(
            model,
            space,
            built,
            objective or Closure(),
            executor or Batched(),
            seed=seed,
            steps=steps,
            origin=origin,
            path=path,
            ledger=written,
            state=state,
        )
        self.accumulated = Accumulation(self.run)
        rates = built.rates(self.run.index, steps)
        groups = [
            {
                "params": [site.parameter for site in space if site.group == name],
                "name": name,
                "lr": rates[name].lr,
                "weight_decay": rates[name].decay,
            }
            for name in GROUPS
        ]
        super().__init__([group for group in groups if group["params"]], {})
        # rates that nobody changed follow the recipe's schedule; a scheduler's word wins from its first change on
        self._rates_set = {g["name"]: (g["lr"], g["weight_decay"]) for g in self.param_groups}

    def step(self, batch: Any = _NOTHING) -> Tensor:  # type: ignore[override]
        """One step on a batch, or with a closure that returns the loss; returns the noted loss (0-dim, float32)."""
        if batch is _NOTHING and len(self.accumulated):
            entry = self.accumulated.finish()
            return torch.tensor(entry.notes.get("loss", float("nan")))
        if batch is _NOTHING:
            wanted = "a closure that returns the loss: step(lambda: loss)" if self._closures else "a batch: step(batch)"
            raise UsageError(f"step() evaluates the loss itself and needs {wanted}")
        if len(self.accumulated):
            raise UsageError("batches are accumulated: step() without a batch takes the step along their mean")
        self._check_kind(batch)
        entry = self.run.step(batch, self._rates())
        return torch.tensor(entry.notes.get("loss", float("nan")))

    def accumulate(self, batch: Any) -> Tensor:
        """Evaluate the next step's points on one batch of several; step() without a batch then takes the step along
        their mean. Returns the mean loss over the points (0-dim, float32)."""
        self._check_kind(batch)
        values = self.accumulated.add(batch, self._rates())
        return torch.tensor(sum(own.mean() for own in values) / len(values))

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Nothing to clear: no gradient is ever made."""

    @property
    def last(self) -> Entry:
        """The last ledger entry: projected gradients, rates, whether the step was skipped."""
        return self.run.ledger.past[-1]

    def snapshot(self, folder: Path | str) -> Path:
        """Save weights and State, so that a resumed run need not replay from the start."""
        run = self.run
        run.ledger.sync()
        return save_snapshot(Path(folder), run.index, run.ledger.chain, run.space, run.state)

    def state_dict(self) -> dict[str, Any]:
        """The step count and rates; the run itself is the ledger."""
        groups = [{k: v for k, v in g.items() if k != "params"} for g in self.param_groups]
        return {"step": self.run.index, "chain": self.run.ledger.chain.hex(), "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore rates. UsageError where the ledger is at another step than the state."""
        if state_dict["step"] != self.run.index or state_dict["chain"] != self.run.ledger.chain.hex():
            raise UsageError(
                f"this state is of step {state_dict['step']}, the ledger of step {self.run.index}; "
                "make the optimizer over the base model with ledger=PATH, which replays the run"
            )
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            group.update(saved)

    def _rates(self) -> dict[str, Rates]:
        recipe = dict(self.run.recipe.rates(self.run.index, self.run.steps))
        for group in self.param_groups:
            now = (group["lr"], group["weight_decay"])
            if now != self._rates_set.get(group["name"]):
                self._rates_set.pop(group["name"], None)  # somebody else sets this group's rates from here on
                recipe[group["name"]] = Rates(float32(now[0]), float32(now[1]))
        return recipe

    def _check_kind(self, batch: Any) -> None:
        if self._closures and not callable(batch):
            raise UsageError("step(batch) needs an objective; give ZerothOrder objective=..., or call step(closure)")
        if not self._closures and callable(batch) and not isinstance(batch, Mapping):
            raise UsageError("this optimizer has an objective: step() takes a batch; leave objective= out for closures")

    @staticmethod
    def _resume(path: Path, model: nn.Module, space: ParameterSpace) -> tuple[Ledger, State]:
        state = State()
        contents = read(path)
        load_attached(contents, Attachments(path.parent / "attachments"), model, space, state, str(path))
        try:
            check_base(contents.header, model, space, str(path))
        except LedgerError as error:
            raise LedgerError(f"{error}, or give another path to begin a run") from error
        ledger = Ledger.resume(path)
        done = load_snapshot(path.parent / "snapshots", contents.chains, space, state)
        apply_entries(contents.entries[done:], contents, space, state, ledger.attachments, str(path))
        return ledger, state


def _check_place(path: Path | None, resume: bool) -> None:
    """UsageError where going on was not asked for, or there is nothing to go on with."""
    if path is None and resume:
        raise UsageError("resume=True needs ledger=PATH, the run to go on with")
    if path is not None and path.exists() and not resume:
        raise UsageError(f"the ledger {path} exists; go on with its run by resume=True, or give another path")
    if path is not None and resume and not path.exists():
        raise UsageError(f"there is no ledger {path} to resume; leave resume out to begin a run there")


Loss = Callable[[], Any]
