"""Before the first step: does every weight feel its perturbation, and does the executor give what `Copy` gives?"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from zerothorder.config import TrainConfig
from zerothorder.errors import UsageError
from zerothorder.estimate import Step
from zerothorder.execution.batched import Batched
from zerothorder.execution.check import check_sites
from zerothorder.execution.evaluate import seeded
from zerothorder.execution.resolution import lost_share
from zerothorder.execution.swap import Swap
from zerothorder.key import Key, run_key
from zerothorder.point import Point
from zerothorder.recipe import Recipe
from zerothorder.reporter import Reporter
from zerothorder.run import Run
from zerothorder.space import ParameterSpace
from zerothorder.state import State

_LOST_TOLD, _LOST_REFUSED = 0.01, 0.5
_CHECKED, _CHECKED_FROM = 4, 256
"""Rows that the executor is checked on: the shortest of so many."""


def check_resolution(
    recipe: Recipe, space: ParameterSpace, state: State, config: TrainConfig, note: Callable[[str], None]
) -> None:
    """UsageError where the storage dtype swallows most of the perturbation; a note where it swallows some."""
    first = next(recipe.estimator()(Step(0, recipe.rates(0, config.steps), (), state, config.steps)))
    terms = next((point.terms for point in first if point.terms), ())
    if not terms:
        return
    lost = lost_share(space, recipe.direction(run_key(config.seed)), state, terms)
    what = f"{lost:.0%} of the weights do not feel the perturbation, which is below the resolution of their dtype"
    if lost > _LOST_REFUSED:
        raise UsageError(f"{what}; raise --eps, or use --dtype float32")
    if lost > _LOST_TOLD:
        note(f"{what}; a larger --eps or --dtype float32 would reach them")


def settle_executor(
    run: Run,
    examples: Sequence[Any],
    mode: Literal["sites", "joint", "off"],
    before: Mapping[str, Any],
    report: Reporter,
) -> dict[str, Any]:
    """The executor as a check finds it may work, or as the run's environment `before` says that one found; returns what
    the environment of a run is to keep of it."""
    owners = before.get("owners")
    if owners is None:
        # short ones: hundreds of evaluations, and a site that is read at all is read in a short text too
        few = sorted(examples[:_CHECKED_FROM], key=lambda example: len(example.prompt))[:_CHECKED]
        return _checked(run, few, mode, report)
    if isinstance(run.executor, Batched):
        run.executor = run.executor.restored(owners, before)
    elif isinstance(run.executor, Swap):
        run.executor = run.executor.again(owners)
    return {}


def _checked(run: Run, batch: Any, mode: Literal["sites", "joint", "off"], report: Reporter) -> dict[str, Any]:
    """Compare `Swap` with `Copy` on a few rows; tells what it found, and returns what a resumed run shall know."""
    if mode == "off" or not isinstance(run.executor, Swap | Batched):
        return {"owners": {}}
    found = check_sites(
        run.around, run.objective, batch, mode=mode,
        progress=lambda done, total: report.progress("checking", done, total),
    )  # fmt: skip
    for sentence in found.sentences():
        report.note(sentence)
    run.executor = run.executor.again(found.owners)
    if isinstance(run.executor, Batched):
        report.progress("checking points together", 0, 1)
        model, key = run.model, Key("check", 0)
        with run.around.meter.watching(model), seeded(key, run.direction.run_key, model):
            prepared = {"main": run.objective.prepare(model, batch, key)}
        run.executor.evaluate([Point(), Point()], run.objective, prepared, key, run.around)  # checks itself first
        report.progress("checking points together", 1, 1)
        return {"owners": dict(found.owners), **run.executor.findings(model)}
    return {"owners": dict(found.owners)}
