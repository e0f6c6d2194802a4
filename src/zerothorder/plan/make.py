"""The plan of a run: model without data, one traced forward, memory, time, ledger."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from zerothorder import catalogue, random
from zerothorder.data import virtual_tokens
from zerothorder.errors import UsageError
from zerothorder.execution.together import ROWS
from zerothorder.key import Key, run_key
from zerothorder.ledger.entry import CHAIN, PREFIX, Codec, Entry
from zerothorder.ledger.header import Header, site_table
from zerothorder.objectives.sequences import answer_nll, choice_logits, class_logits
from zerothorder.plan.bare import bare
from zerothorder.plan.clock import Clock, Exchanged, calibrate
from zerothorder.plan.config import PlanConfig
from zerothorder.plan.memory import Memory, predict_memory
from zerothorder.plan.prepared import Moved, prepared, step_of
from zerothorder.plan.scratch import largest_module, one_by_one, scratch_of
from zerothorder.plan.source import find
from zerothorder.plan.trace import trace, with_data, without_data
from zerothorder.plan.warnings import warnings_of
from zerothorder.point import Estimate
from zerothorder.recipe import Recipe, settings
from zerothorder.run import GROUPS
from zerothorder.space import ParameterSpace


@dataclass(frozen=True)
class Plan:
    """The prediction. Bytes and seconds; `forwards` counts rows through the model, `tokens` with their padding."""

    config: PlanConfig
    parameters: int
    searched: int
    sites: int
    memory: Memory
    evaluations: int
    forwards: int
    tokens: int
    clock: Clock | None
    ledger_step: int
    ledger_header: int
    ledger_run: int
    warnings: tuple[str, ...]

    @property
    def seconds(self) -> float | None:
        """Predicted seconds a step."""
        return None if self.clock is None else self.clock.step

    def to_dict(self) -> dict[str, Any]:
        """As `--json` prints it."""
        clock = None if self.clock is None else dataclasses.asdict(self.clock) | {"step": self.clock.step}
        return {
            "config": dataclasses.asdict(self.config),
            "parameters": self.parameters,
            "searched": self.searched,
            "sites": self.sites,
            "memory": {**self.memory.parts, "steps": self.memory.steps, "loading": self.memory.loading},
            "peak": self.memory.peak,
            "evaluations": self.evaluations,
            "forwards": self.forwards,
            "tokens": self.tokens,
            "seconds": clock,
            "run_seconds": None if self.clock is None else self.clock.step * self.config.steps,
            "ledger_bytes": {"header": self.ledger_header, "step": self.ledger_step, "run": self.ledger_run},
            "warnings": list(self.warnings),
        }


def make_plan(config: PlanConfig) -> Plan:
    """Predict a run. UsageError for what `train` would refuse, as far as it shows without weights."""
    config.check_numbers()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    recipe = catalogue.build(config.recipe, config.scheme, **config.recipe_settings())
    source = find(config.model, config.head, config.trust_remote_code)
    with without_data():
        model, space = bare(config, source)
        # one mode throughout: another one would take these weights for tensors that a forward makes
        with with_data():
            state = prepared(recipe, space)
            rounds, estimate = step_of(recipe, config.steps, state)
        points = [point for some in rounds for point in some]
        if any(point.want != "value" for point in points):
            raise UsageError(
                f"{recipe.name} differentiates, which takes memory that a plan does not price; plan a recipe of values"
            )
        together = config.together(max(len(some) for some in rounds))
        work = trace(model, forward_of(model, config, together))
        scratch = scratch_of(model, space, recipe, config, points)
        memory = predict_memory(model, space, recipe, scratch, source, work)
        if config.executor == "batched":
            memory = memory.with_check(largest_module(model, space), ROWS / (config.rows * together))
        total = sum(p.numel() for p in model.parameters())
        taken = len(virtual_tokens(model))
        exchanged = Exchanged.of(model, space, recipe, config.executor)
        alone = one_by_one(model, space) if config.executor == "batched" else ()
    pieces = config.batch_size / config.rows / together
    moved = Moved.of(points, space, recipe.direction(bytes(16)), state)
    clock = calibrate(work, space, exchanged, recipe, points, pieces, moved) if config.time else None
    step, header, run = _ledger(recipe, space, config.steps, estimate)
    rows = len(points) * config.batch_size * rows_each(config)
    return Plan(
        config=config,
        parameters=total,
        searched=space.numel,
        sites=len(space),
        memory=memory,
        evaluations=len(points),
        forwards=rows,
        tokens=rows * (config.tokens + taken),
        clock=clock,
        ledger_step=step,
        ledger_header=header,
        ledger_run=run,
        warnings=(*warnings_of(config, recipe, space, source, points), *alone),
    )


def rows_each(config: PlanConfig) -> int:
    """Rows that one example takes: candidates of several tokens are rows of their own."""
    several = config.objective != "lm" and config.head is None and config.answer_tokens > 1
    return config.choices if several else 1


def forward_of(model: nn.Module, config: PlanConfig, together: int = 1) -> Callable[[], Any]:
    """One evaluation of the objective on rows of `tokens` tokens, of as many points as are `together`."""
    before = virtual_tokens(model)
    prompt = (*before, *range(1, 1 + config.tokens))
    rows = [prompt] * (config.rows * together)
    if config.head is not None:
        return lambda: class_logits(model, rows, 0)
    if config.objective == "lm":
        start = max(1, len(before))
        return lambda: answer_nll(model, [row[:start] for row in rows], [row[start:] for row in rows], 0)
    if rows_each(config) == 1:
        return lambda: choice_logits(model, rows, list(range(1, 1 + config.choices)), 0)
    cut = len(before) + config.tokens - config.answer_tokens
    pairs = [row for row in rows for _ in range(config.choices)]
    return lambda: answer_nll(model, [row[:cut] for row in pairs], [row[cut:] for row in pairs], 0)


def _ledger(recipe: Recipe, space: ParameterSpace, steps: int, estimate: Estimate) -> tuple[int, int, int]:
    """Bytes of a step, of the header, and of the run.

    The format's own, for the terms of `estimate`; a schedule writes its rate each step.
    """
    codec = Codec(recipe.columns, GROUPS, recipe.tags)
    sizes: list[int] = []
    for index in range(min(3, steps)):
        terms = tuple((Key(key.tag, index, key.b), 1.0) for key, _ in estimate.terms)
        entry = Entry(index, terms, dict.fromkeys(recipe.columns, 0.0), recipe.rates(index, steps))
        sizes.append(PREFIX.size + len(codec.encode(entry)[1]) + CHAIN)
    header = Header(
        "0" * 64, site_table(space), recipe.name, settings(recipe), run_key(0).hex(), random.VERSION,
        next(iter(space)).grid.precision, recipe.columns, GROUPS, recipe.tags,
    )  # fmt: skip
    first = len(header.encode())
    return sizes[-1], first, first + sizes[0] + sizes[-1] * (steps - 1)
