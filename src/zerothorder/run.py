"""The one loop: ask an estimator for points, have them evaluated, write the entry, apply what was written."""

import dataclasses
import json
import math
import signal
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from zerothorder import random
from zerothorder.errors import UsageError
from zerothorder.estimate import Step
from zerothorder.execution import Executor, Surroundings
from zerothorder.execution.evaluate import seeded
from zerothorder.key import Key, run_key
from zerothorder.ledger.entry import Entry, Rates, float32
from zerothorder.ledger.header import Header, fingerprint, site_table
from zerothorder.ledger.writer import Ledger
from zerothorder.objectives import Objective
from zerothorder.point import Estimate, Point, Values
from zerothorder.profile import phase
from zerothorder.recipe import Recipe, settings
from zerothorder.space import ParameterSpace
from zerothorder.state import State

GROUPS = ("decay", "plain")
SKIPS_ALLOWED = 20
"""Skipped steps in a row after which a run stops: one bad value costs a step, a broken loss should not cost a day."""


class Run:
    """A base model plus a ledger: owns the run key, the step counter, the rates and the State.

    `steps` is what schedules run over. With `ledger` given the run goes on from it: the caller has replayed the
    entries (`ledger.replay`) or loaded a snapshot. A live step and a replayed one differ in nothing but who wrote
    the entry.
    """

    def __init__(
        self,
        model: nn.Module,
        space: ParameterSpace,
        recipe: Recipe,
        objective: Objective,
        executor: Executor,
        *,
        seed: int = 0,
        steps: int = 0,
        path: Path | None = None,
        ledger: Ledger | None = None,
        state: State | None = None,
        origin: Mapping[str, Any] | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> None:
        self.model, self.space, self.recipe, self.objective = model, space, recipe, objective
        self.executor, self.steps = executor, steps
        key = run_key(seed) if ledger is None else bytes.fromhex(ledger.header.run_key)
        self.direction, self.estimator, self.update = (
            recipe.direction(key),
            recipe.estimator(),
            recipe.update(),
        )
        self.state = state or State()
        self.around = Surroundings(model, space, self.direction, self.state)
        if ledger is None:
            ledger = Ledger(new_header(model, space, recipe, key, origin or {}, data or {}), path)
        else:
            check_recipe(ledger.header, recipe, space)
        self.ledger = ledger
        self._open: Generator[list[Point], list[Values], Estimate] | None = None
        if not self.ledger.past and (setup := getattr(recipe, "setup", None)):
            setup(self)

    @property
    def index(self) -> int:
        """The step about to be taken, which is the number of steps written."""
        return len(self.ledger.past)

    def attach(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Put one tensor a site (by site name) into the State and, by hash, into the ledger."""
        self.ledger.attach(name, tensors)
        # copies: what the entry holds must not move with the weights it may have been taken from
        self.state.tensors[name] = {site: tensor.detach().clone() for site, tensor in tensors.items()}

    def step(self, batch: Any, rates: Mapping[str, Rates] | None = None, **others: Any) -> Entry:
        """One step on a batch (and other named batches); returns the entry that was written and applied."""
        prepared = self.prepare(batch, **others)
        points = self.ask(rates)
        while True:
            answer = self.tell(self.look(points, prepared))
            if isinstance(answer, Entry):
                return answer
            points = answer

    def prepare(self, batch: Any, part: int = 0, **others: Any) -> dict[str, Any]:
        """What the objective computes once at θ for the batches of the next step, by name. `part` numbers the batches
        of a step that comes in several (`Accumulation`): each has its own dropout and samples."""
        model, key = self.model, Key("prepare", self.index, part)
        with phase("forward"), self.around.meter.watching(model), seeded(key, self.direction.run_key, model):
            return {name: self.objective.prepare(model, data, key) for name, data in {"main": batch, **others}.items()}

    def look(self, points: list[Point], prepared: Mapping[str, Any], part: int = 0) -> list[Values]:
        """Values at the next step's points."""
        key = Key("prepare", self.index, part)
        with phase("forward"):
            values = self.executor.evaluate(points, self.objective, prepared, key, self.around)
            compare = getattr(self.objective, "compare", None)
            return values if compare is None else compare(values)

    def ask(self, rates: Mapping[str, Rates] | None = None) -> list[Point]:
        """The first points of the next step, for somebody to answer."""
        found = rates or self.recipe.rates(self.index, self.steps)
        # as the entry will hold them: an estimator sees what replay will see
        self._rates = {group: Rates(float32(rate.lr), float32(rate.decay)) for group, rate in found.items()}
        for rate in self._rates.values():
            for name, value in (("lr", rate.lr), ("weight_decay", rate.decay)):
                if not 0 <= value < math.inf:
                    raise UsageError(f"{name} is {value:g} at step {self.index}; give a finite number, 0 or more")
        self._open = self.estimator(Step(self.index, self._rates, self.ledger.past, self.state, self.steps))
        return next(self._open)

    def tell(self, values: list[Values]) -> Entry | list[Point]:
        """Answer the points: more points where the estimator goes on, else the entry, written and applied."""
        if self._open is None:
            raise UsageError("tell() without ask(): ask() gives the points that tell() answers")
        try:
            return self._open.send(values)
        except StopIteration as stop:
            self._open = None
            return self._write(stop.value)

    def _write(self, estimate: Estimate) -> Entry:
        self.update.check(estimate.dense)
        terms = tuple((key, float32(scalar)) for key, scalar in estimate.terms)
        # a bad value costs one step, never the run
        dense = (estimate.dense or {}).values()
        skipped = not (all(math.isfinite(s) for _, s in terms) and all(map(_finite, dense)))
        notes = {name: float32(value) for name, value in estimate.notes.items()}
        entry = Entry(self.index, terms, notes, self._rates, skipped, estimate.absolute)
        with uninterrupted():
            with phase("ledger"):
                written = self.ledger.append(entry, None if skipped else estimate.dense, keep=estimate.kept)
            with phase("update"):
                self.update.apply(written, self.space, self.direction, self.state)
        recent = self.ledger.past[-SKIPS_ALLOWED:]
        if len(recent) == SKIPS_ALLOWED and all(past.skipped for past in recent):
            raise UsageError(
                f"the loss was not a number at {SKIPS_ALLOWED} steps in a row (up to step {entry.step}), which moved "
                "nothing; lower lr or eps, compute in float32, or look at the loss itself"
            )
        return dataclasses.replace(written, dense=None)


def _finite(part: Tensor) -> bool:
    """Whether all elements are numbers: its least and its largest are, in one pass and without a mask of its size."""
    return not part.numel() or all(bool(end.isfinite()) for end in part.aminmax())


def check_recipe(header: Header, recipe: Recipe, space: ParameterSpace) -> None:
    """UsageError where going on would write steps that replay, which follows the header, would take otherwise."""
    now: dict[str, Any] = {"recipe": recipe.name, "precision": next(iter(space)).grid.precision}
    then: dict[str, Any] = {"recipe": header.recipe, "precision": header.precision}
    # as JSON holds them: a tuple is a list there
    now |= json.loads(json.dumps(settings(recipe), default=list))
    for name, value in (then | dict(header.settings)).items():
        if now.get(name, value) != value:
            raise UsageError(
                f"the ledger was begun with {name} = {value!r}, not {now[name]!r}; go on with its own settings"
            )


def new_header(
    model: nn.Module,
    space: ParameterSpace,
    recipe: Recipe,
    key: bytes,
    origin: Mapping[str, Any],
    data: Mapping[str, Any],
) -> Header:
    """The header of a run that starts at the model as it is."""
    return Header(
        base=fingerprint(model),
        sites=site_table(space),
        recipe=recipe.name,
        settings=settings(recipe),
        run_key=key.hex(),
        generator=random.VERSION,
        precision=next(iter(space)).grid.precision,
        columns=recipe.columns,
        groups=GROUPS,
        tags=recipe.tags,
        data=data,
        origin=origin,
    )


@contextmanager
def uninterrupted() -> Generator[None]:
    """Hold Ctrl-C back until the block is through: written and applied belong together."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        signal.raise_signal(signal.SIGINT)
