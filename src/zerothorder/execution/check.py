"""Before the first step: does the executor give what `Copy` gives, and does every site change anything at all?

A module's weights may be read without the module being called (Mamba's conv1d, prompt embeddings, a fused kernel),
or after it has returned; exchanging them there would silently train on z that never reached the loss.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from zerothorder.directions.laws import Dense
from zerothorder.errors import UsageError
from zerothorder.execution import Executor, Surroundings
from zerothorder.execution.copy import Copy
from zerothorder.execution.evaluate import seeded
from zerothorder.execution.findings import Report, patterns
from zerothorder.execution.observe import Observation, calls, named_modules, observing
from zerothorder.execution.scaled import Scaled, scales
from zerothorder.execution.swap import Swap
from zerothorder.key import Key
from zerothorder.objectives import Objective
from zerothorder.point import Point
from zerothorder.space import ParameterSpace, Site

_GROUP_BYTES = 64 << 20

_HARDER = 10.0

Make = Callable[[Mapping[str, str]], Executor]
"""The executor under test, given owners (site name → module name, "" the whole evaluation)."""


def poisoned(owners: Mapping[str, str]) -> Swap:
    """`Swap` whose scratch turns into NaN when a module returns: weights read later show."""
    return Swap(owners, poison=True)


def check_sites(
    around: Surroundings,
    objective: Objective,
    batch: Any,
    *,
    mode: Literal["sites", "joint"] = "sites",
    make: Make = poisoned,
    rows: int = 4,
    key: Key = Key("check", 0),  # noqa: B008
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Compare an executor with `Copy` on a few rows; returns what to tell the user and the owners to run with.

    Every site is moved by ± a tenth of its rms. "joint": groups of sites at once (each about the largest module's
    bytes, so that `Copy` never holds a second model), executor equal to `Copy` bit by bit in values and model
    outputs; where they differ, the sites one by one, each raised to the next called ancestor until it agrees.
    "sites": also each site alone, to find those that change nothing: about one forward of `rows` rows a site, one
    or two more for a site that seems to change nothing.

    `around` is the run's (its forwards are counted there); `batch` is prepared here, and cut to `rows` examples where
    the objective has select() - otherwise give a small one. Weights, their
    versions and the global generators stay as they are. `progress(done, total)` after every evaluation; total may grow.

    UsageError when a site disagrees even where its weights are exchanged for the whole evaluation.
    """
    if mode not in ("sites", "joint"):
        raise UsageError(f"unknown mode {mode!r} of the check; known are 'sites' and 'joint'")
    with seeded(key, around.direction.run_key, around.model), around.meter.watching(around.model):
        prepared = objective.prepare(around.model, batch, key)
    return _Check(around, objective, prepared, key, make, progress).run(mode, rows)


class _Check:
    def __init__(
        self,
        around: Surroundings,
        objective: Objective,
        prepared: Any,
        key: Key,
        make: Make,
        progress: Callable[[int, int], None],
    ) -> None:
        self.objective, self.prepared, self.key = objective, prepared, key
        signs = Dense(around.direction.run_key, "rademacher")
        self.around = replace(around, direction=Scaled(signs, scales(around.space)))
        self.make, self.progress = make, progress
        self.owners: dict[str, str] = {}
        self.rows: tuple[int, ...] | None = None
        self.done, self.expected = 0, 1

    def run(self, mode: str, rows: int) -> Report:
        sites = list(self.around.space)
        groups = list(_groups(sites))
        self.expected = 3 + 2 * len(groups) + (len(sites) if mode == "sites" else 0)
        count = self._values(Copy(), sites, ())[1]
        if hasattr(self.objective, "select") and count > rows:
            self.rows = tuple(range(rows))
        with calls(self.around.model) as self.called:
            self.base = self._values(Copy(), sites, ())[0]
        report = Report(len(sites))
        if self._values(Copy(), sites, ())[0] != self.base:
            return replace(report, evaluations=self.done, noisy=True)
        dead: list[str] = []
        for group in groups:
            truth = self._look(Copy(), group)
            if self._look(self.make(self.owners), group) != truth:
                self._resolve(group, truth)
            if truth == self.base:
                dead += [site.name for site in group]
        dormant: list[str] = []
        if mode == "sites":
            silent = self._silent(sites)
            dormant = self._dormant(sites, silent)
            dead = [site.name for site in silent if site.name not in dormant]
        self.progress(self.done, self.done)
        return replace(
            report,
            evaluations=self.done,
            owners=dict(self.owners),
            dead=tuple(dead),
            dormant=tuple(dormant),
        )

    def _values(
        self, executor: Executor, sites: Sequence[Site], terms: tuple[tuple[Key, float], ...]
    ) -> tuple[Observation, int]:
        around = replace(self.around, space=ParameterSpace(sites))
        point = Point(terms, rows=self.rows)
        with observing(self.around.model) as seen:
            found = executor.evaluate([point], self.objective, {"main": self.prepared}, self.key, around)[0]
        seen.take(found)
        self.done += 1
        self.progress(self.done, max(self.done, self.expected))
        return seen, found.value.numel()

    def _look(self, executor: Executor, sites: Sequence[Site], harder: bool = False) -> Observation:
        """What these sites' perturbation shows; the others stay as they are."""
        term = (replace(self.key, b=self.key.b + 1), _HARDER) if harder else (self.key, 1.0)
        return self._values(executor, sites, (term,))[0] if sites else self.base

    def _resolve(self, group: Sequence[Site], truth: Observation) -> None:
        """Find the sites of a group that the executor misses and raise each until the group agrees with Copy.

        All sites but one are exchanged for the whole evaluation, as Copy does: what differs is that one's.
        """
        whole = {site.name: "" for site in group}
        self.expected += len(group)
        if self._look(self.make(whole), group) != truth:
            raise UsageError(
                f"the executor disagrees with a perturbed copy of the weights for {patterns([*whole])}, wherever "
                "they are exchanged; use the executor copy"
            )
        for site in group:
            others = {name: "" for name in whole if name != site.name}
            self._raise(site, lambda own, others=others: self._look(self.make(others | own), group) == truth)
        if self._look(self.make(self.owners), group) != truth:
            self.owners |= whole

    def _raise(self, site: Site, agrees: Callable[[dict[str, str]], bool]) -> None:
        """Give a site the nearest owner with which it agrees; none where the module that registers it does."""
        if agrees({}):
            return
        for owner in self._ancestors(site):
            if agrees({site.name: owner}):
                self.owners[site.name] = owner
                return
        raise UsageError(
            f"the executor disagrees with a perturbed copy of the weights for {site.name}, wherever it is exchanged; "
            "use the executor copy"
        )

    def _ancestors(self, site: Site) -> Iterator[str]:
        """Called modules above everything that registers the site, nearest first; then "", the whole evaluation."""
        places = [
            name
            for name, module in named_modules(self.around.model)
            if any(p is site.parameter for p in module.parameters(recurse=False))
        ]
        if places:
            common = [".".join(places[0].split(".")[:n]) for n in range(places[0].count("."), 0, -1)]
            for name in common:
                if name in self.called and all(place.startswith(name + ".") for place in places):
                    yield name
        yield ""

    def _silent(self, sites: Sequence[Site]) -> list[Site]:
        """Sites that change nothing alone. One that Swap alone misses, though not with others, is raised."""
        seen: list[Observation] = []
        for site in sites:
            look = self._look(self.make(self.owners), [site])
            if look == self.base and (truth := self._look(Copy(), [site])) != self.base:

                def agrees(own: dict[str, str], site: Site = site, truth: Observation = truth) -> bool:
                    return self._look(self.make(self.owners | own), [site]) == truth

                self._raise(site, agrees)
                look = truth
            seen.append(look)
        outputs = sum(look.outputs != self.base.outputs for look in seen)
        values = sum(look.values != self.base.values for look in seen)
        # an objective that moves in steps (accuracy) shows few sites; there the model's outputs are asked instead
        self.smooth = 2 * values >= outputs
        silent = [site for site, look in zip(sites, seen, strict=True) if not self._differ(look, self.base)]
        self.expected += len(silent)
        # larger and elsewhere before a site is called dead: a small effect is lost in rounding, and equal signs of
        # a small bias are lost in a softmax
        executor = self.make(self.owners)
        return [site for site in silent if not self._differ(self._look(executor, [site], harder=True), self.base)]

    def _differ(self, a: Observation, b: Observation) -> bool:
        return a.values != b.values if self.smooth else a != b

    def _dormant(self, sites: Sequence[Site], silent: Sequence[Site]) -> list[str]:
        """Those of the silent sites without which the perturbation of all together is another."""
        if not silent:
            return []
        self.expected += 2
        executor = self.make(self.owners)
        together = self._look(executor, sites)
        names = {site.name for site in silent}
        if not self._differ(self._look(executor, [s for s in sites if s.name not in names]), together):
            return []
        self.expected += len(silent)
        return [
            site.name
            for site in silent
            if self._differ(self._look(executor, [s for s in sites if s is not site]), together)
        ]


def _groups(sites: Sequence[Site]) -> Iterator[list[Site]]:
    """Consecutive sites, as many as fit into the bytes of the largest (or a few megabytes)."""
    sizes = [site.numel * site.parameter.element_size() for site in sites]
    limit, held, group = max(_GROUP_BYTES, *sizes), 0, list[Site]()
    for site, size in zip(sites, sizes, strict=True):
        if group and held + size > limit:
            yield group
            held, group = 0, []
        held += size
        group.append(site)
    yield group


__all__ = ["Report", "check_sites", "poisoned"]
