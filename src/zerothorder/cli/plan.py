"""`zo plan`: memory and time of a run, before anything is loaded."""

import json
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from zerothorder.cli.flags import parse
from zerothorder.plan import Plan, PlanConfig, make_plan


def main(words: Sequence[str]) -> int:
    """Predict as the flags say."""
    plan_command(parse(PlanConfig, words, "zo plan"))
    return 0


def plan_command(config: PlanConfig) -> None:
    """Predict memory and time of a run before anything is loaded."""
    plan = make_plan(config)
    if config.json:
        print(json.dumps(plan.to_dict(), indent=2, default=str))
        return
    console = Console()
    console.print(table_of(plan))
    for warning in plan.warnings:
        console.print(f"[yellow]warning:[/] {warning}")


def table_of(plan: Plan) -> Table:
    """The prediction for people."""
    config = plan.config
    table = Table(
        title=f"{config.recipe} on {config.model}, {config.dtype}: {config.batch_size} rows of {config.tokens} tokens",
        title_justify="left",
    )
    table.add_column("")
    table.add_column("predicted", justify="right")
    table.add_row("parameters", f"{plan.parameters:,}")
    table.add_row("searched", f"{plan.searched:,} in {plan.sites} tensors", end_section=True)
    for name, size in plan.memory.parts.items():
        if size:
            table.add_row(name, _bytes(size))
    table.add_row("while stepping", _bytes(plan.memory.steps))
    table.add_row("while loading", _bytes(plan.memory.loading))
    table.add_row("[bold]peak memory[/]", f"[bold]{_bytes(plan.memory.peak)}[/]", end_section=True)
    table.add_row("forwards a step", f"{plan.forwards} rows in {plan.evaluations} evaluations")
    table.add_row("tokens a step", f"{plan.tokens:,}")
    if plan.clock is not None:
        clock = plan.clock
        table.add_row("one evaluation", f"{clock.forward:.3f} s at {clock.gflops:.0f} GFLOP/s")
        table.add_row("one perturbation", f"{clock.perturbation:.3f} s, {clock.perturbation_ns:.2f} ns a weight")
        table.add_row("one update", f"{clock.update:.3f} s, {clock.update_ns:.2f} ns a weight")
        table.add_row("[bold]one step[/]", f"[bold]{clock.step:.3f} s[/]")
        table.add_row(f"{config.steps:,} steps", _duration(clock.step * config.steps), end_section=True)
    table.add_row("ledger", f"{plan.ledger_step} bytes a step, header {_bytes(plan.ledger_header)}")
    table.add_row(f"ledger of {config.steps:,} steps", _bytes(plan.ledger_run))
    return table


def _bytes(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
