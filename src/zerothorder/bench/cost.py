"""What a cell will cost, by a plan: forwards of a step, seconds of a forward. Asked for once a process."""

import functools

from zerothorder.plan import PlanConfig, make_plan
from zerothorder.plan.bare import forwards_a_step


@functools.cache
def step_forwards(model: str, recipe: str, scheme: str, settings: tuple[str, ...], head: bool) -> int:
    """Forwards of a step of the recipe."""
    config = PlanConfig(model=model, recipe=recipe, scheme=scheme, settings=settings, head=_classes(head))  # type: ignore[arg-type]
    return forwards_a_step(config)


@functools.cache
def forward_seconds(model: str, dtype: str, batch: int, tokens: int, head: bool) -> float:
    """Of a batch on one thread; 0 where a plan knows no time of this machine."""
    config = PlanConfig(
        model=model, dtype=dtype, batch_size=batch, tokens=tokens, recipe="zo-sgd", threads=1, head=_classes(head)  # type: ignore[arg-type]
    )  # fmt: skip
    clock = make_plan(config).clock
    return 0.0 if clock is None else clock.forward


def _classes(head: bool) -> int | None:
    """Of the plan's classifier; how many there are changes nothing that is asked here."""
    return 2 if head else None
