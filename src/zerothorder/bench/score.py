"""A cell of scores: a model trained on a task with a budget of forwards, its rate chosen on dev, its score on test."""

import dataclasses
import functools
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, get_args

from zerothorder import catalogue
from zerothorder.bench.cost import forward_seconds, step_forwards
from zerothorder.bench.kept import keep_ledger
from zerothorder.bench.memory import resident, resident_before
from zerothorder.bench.suite import Cell
from zerothorder.config import Scheme, TrainConfig
from zerothorder.data.baselines import baselines
from zerothorder.data.models import DTYPES
from zerothorder.errors import UsageError, nearest
from zerothorder.journal import read_journal
from zerothorder.reporter import Silent
from zerothorder.task import load_task
from zerothorder.training import Training

_ASKED = ("model", "data", "objective", "template", "verbalizers", "bare", "head", "dtype")
_AS_OF_TRAIN = (*_ASKED, "recipe", "scheme", "test_rows")
"""Settings that `zo train` has under the same name; the first are what is asked of which model."""
SCHEMES: tuple[str, ...] = get_args(Scheme)
_LEAST = {"budget": 1, "search": 1, "batch": 1, "tokens": 2, "looks": 1, "dev_rows": 0, "test_rows": 0}
_OBJECTIVES = ("classification", "lm")
SEARCH_SEED = 1000
"""Of the runs that choose a rate: none of a suite's own, which may not have it."""


@dataclass(frozen=True)
class Score:
    """Settings of a cell. A budget is in forward-equivalents: passes of a batch of `batch` rows cut at `tokens`, a
    slope counted 2 and a gradient 3.

    `rates` are learning rates to choose from, a list, or a list for each scheme: each is tried for `search` forwards
    on the first task of the same model, and the one with the lowest cross-entropy on `dev_rows` of dev is taken for
    `budget` forwards on every task. All recipes of a suite have equally many. `settings` are the recipe's others, a
    value or one for each scheme.
    `looks` is how often dev is looked at on the way; `test_rows` 0 is all. `bare` and `head` as of `zo train`.
    """

    axes: ClassVar[tuple[str, ...]] = ("model", "recipe", "scheme")
    page: ClassVar[str] = "zerothorder.bench.score_page"
    executor: ClassVar[str] = "batched"

    data: str
    rates: Any
    recipe: str = "zo-sgd"
    scheme: str = "full"
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    model: str = "llama-2.5m"
    dtype: str = "float32"
    objective: str = "classification"
    template: str | None = None
    verbalizers: str | None = None
    bare: bool = False
    head: bool = False
    budget: int = 1500
    search: int = 300
    batch: int = 8
    tokens: int = 32
    looks: int = 5
    dev_rows: int = 200
    test_rows: int = 0
    rate: float | None = None

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise UsageError(f"there is no scheme {self.scheme!r}{nearest(self.scheme, SCHEMES)}")
        rates = self.candidates
        if not rates or len(set(rates)) < len(rates):
            raise UsageError(
                f"no learning rates for {self.recipe} with the scheme {self.scheme}, or one of them twice; give rates"
            )
        if self.dtype not in DTYPES:
            raise UsageError(f"there is no dtype {self.dtype!r}{nearest(self.dtype, DTYPES)}")
        if self.objective not in _OBJECTIVES:
            raise UsageError(
                f"objective is {self.objective!r}; scores are cross-entropies, of {' or '.join(_OBJECTIVES)}"
            )
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be {least} or more")
        if self.rate is None and self.search > self.budget and rates[1:]:
            raise UsageError(
                f"search is {self.search} forwards a rate, more than the budget of {self.budget}; give less"
            )
        if self.rate is None and rates[1:] and not self.dev_rows:
            raise UsageError("dev_rows is 0, and a rate is chosen on dev; give some, or a single rate")
        self._recipe(rates[0])  # an unknown recipe, scheme or setting is said before the first cell runs

    @property
    def candidates(self) -> tuple[float, ...]:
        """The rates of this scheme."""
        found = self.rates.get(self.scheme, ()) if isinstance(self.rates, Mapping) else self.rates
        if not isinstance(found, list | tuple) or not all(
            type(rate) in (int, float) and 0 < rate < math.inf for rate in found
        ):
            raise UsageError(
                f"rates of {self.recipe} are {found!r}; give a list of numbers above 0, or one for each scheme"
            )
        return tuple(float(rate) for rate in found)

    @classmethod
    def arranged(cls, cells: Sequence[Cell]) -> list[Cell]:
        """The searches first, then the cells, each after those of its method. UsageError where one method may search
        more than another."""
        searches, after = dict[str, Cell](), dict[tuple[str, str], tuple[str, ...]]()
        counts = {cell.method: len(cls(**cell.settings).candidates) for cell in cells}
        common = next(iter(counts.values()))
        for method, count in counts.items():
            if count != common:
                raise UsageError(f"{method} has {count} rates and others {common}; every method gets the same search")
        if common > 1 and any(cell.seed == SEARCH_SEED for cell in cells):
            raise UsageError(f"the seed {SEARCH_SEED} is that of the runs which choose a rate; take another")
        for cell in cells:
            which = (cell.method, cell.settings["model"])
            if which in after or common == 1:
                continue
            own = cls(**cell.settings)
            found = [
                dataclasses.replace(
                    cell, seed=SEARCH_SEED, stage=f"rate-{rate:g}", settings=dataclasses.asdict(own.searching(rate))
                )
                for rate in own.candidates
            ]
            searches |= {early.name: early for early in found}
            after[which] = tuple(early.name for early in found)
        late = [dataclasses.replace(c, after=after.get((c.method, c.settings["model"]), ())) for c in cells]
        return [*searches.values(), *late]

    def searching(self, rate: float) -> "Score":
        """The cell that tries a rate."""
        return dataclasses.replace(self, rate=rate, budget=self.search, looks=1, rates=[rate])

    @classmethod
    def follows(cls, result: Mapping[str, Any], before: Sequence[Mapping[str, Any]], where: Path) -> None:
        """UsageError where the rate was chosen from other searches than those that are there now."""
        tried = {f"{float(own['settings']['rate']):g}": own["dev"]["loss"] for own in before}
        if json.dumps(tried, sort_keys=True) != json.dumps(result["tried"], sort_keys=True):
            raise UsageError(
                f"{where} chose its rate from other searches than those that are there now; remove that folder to run "
                "it again"
            )

    def check(self) -> None:
        """UsageError for data or a model that cannot be read, a wording that does not fit them, or a budget of less
        than a step."""
        _load(*(getattr(self, name) for name in _ASKED), self.tokens)
        cost = self.cost()
        if self.budget < cost:
            what = "a search" if self.rate is not None else "a budget"
            raise UsageError(
                f"a step of {self.recipe} takes {cost} forwards, and {what} of {self.budget} is none; give more"
            )

    def cost(self) -> int:
        """Forwards of a step."""
        return step_forwards(self.model, self.recipe, self.scheme, self.words(), self.head)

    def seconds(self) -> float:
        """Expected of one thread: forwards by the clock of a plan, a third more for what is around them."""
        each = forward_seconds(self.model, self.dtype, self.batch, self.tokens, self.head)
        looked = self.dev_rows * (self.looks + 1) + (0 if self.rate is not None else 2 * (self.test_rows or 330) + 1000)
        return 3.0 + each * (self.budget * 4 / 3 + looked / self.batch)

    def words(self) -> tuple[str, ...]:
        """The recipe's settings as the command line has them; of one given by schemes, that of this one."""
        for name, value in self.settings.items():
            if isinstance(value, Mapping) and self.scheme not in value:
                raise UsageError(f"{name} of {self.recipe} has no value for the scheme {self.scheme}; give one")
        own = {name: v[self.scheme] if isinstance(v, Mapping) else v for name, v in self.settings.items()}
        return tuple(f"{name}={value}" for name, value in own.items())

    def run(self, folder: Path, seed: int, before: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
        """Train and measure. A search looks at dev alone."""
        start = resident_before(DTYPES[self.dtype])
        tried = {float(result["settings"]["rate"]): result["dev"]["loss"] for result in before}
        rate = self.rate if self.rate is not None else best(tried) if tried else self.candidates[0]
        cost = self.cost()
        steps = self.budget // cost
        config = self.config(folder / "run", seed, rate, steps)
        training = Training(config, Silent(), tests=self.rate is None, page=False)
        training.go()
        rows = read_journal(config.output / "metrics.jsonl")
        taken = [row for row in rows if row["kind"] == "step"]
        found = {
            "rate": rate, "tried": {f"{r:g}": loss for r, loss in tried.items()}, "steps": steps, "cost": cost,
            "forwards": max(row.get("forwards", 0) for row in taken) / self.batch,
            "searched": sum(r["forwards"] for r in before),
            "skipped": sum(bool(row["skipped"]) for row in taken),
            "zero_shot": training.measures.get("zero-shot", {}), "dev": training.measures["dev"],
            "test": training.measures.get("test", {}) if self.rate is None else {},
            "curve": [
                {"forwards": row["forwards"] / self.batch, "loss": row.get("loss"), "accuracy": row.get("accuracy")}
                for row in rows if row["kind"] == "eval" and row["split"] == "dev"
            ],
            "training_seconds": round(sum(row.get("cpu_seconds", 0.0) for row in taken), 2),
            "memory": max(0, max(resident(), *(row.get("memory", 0) for row in taken)) - start),
        }  # fmt: skip
        if self.rate is None:
            found |= keep_ledger(config.output, folder) | {"baselines": baselines(self.data, "test", self.template)}
        shutil.rmtree(config.output)
        return json.loads(json.dumps(found, default=float))

    def config(self, output: Path, seed: int, rate: float, steps: int) -> TrainConfig:
        """As `zo train` has it; the run that is in the output folder is gone on with. Without snapshots, whose copy of
        the State would be the most that the process held: a ledger is replayed in a moment, other runs begin anew."""
        given: dict[str, Any] = {name: getattr(self, name) for name in _AS_OF_TRAIN}
        return TrainConfig(
            output=output, lr=rate, settings=self.words(), seed=seed, steps=steps, batch_size=self.batch,
            max_length=self.tokens, eval_every=max(1, steps // self.looks), eval_rows=self.dev_rows, snapshot_every=0,
            check="off", threads=1, resume=(output / "config.json").exists(), **given,
        )  # fmt: skip

    def _recipe(self, rate: float) -> Any:
        config = self.config(Path(), 0, rate, 1)
        return catalogue.build(self.recipe, self.scheme, **config.recipe_settings())


@functools.cache
def _load(*asked: Any) -> None:
    """What a run begins with, once for all cells that ask for the same."""
    *given, tokens = asked
    load_task(TrainConfig(output=Path(), max_length=tokens, **dict(zip(_ASKED, given, strict=True))), ("dev",))


def best(tried: Mapping[float, float]) -> float:
    """The rate with the lowest loss; a loss that is no number loses, and of equal ones the lower rate wins."""
    return min(sorted(tried), key=lambda rate: tried[rate] if tried[rate] == tried[rate] else float("inf"))
