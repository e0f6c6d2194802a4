"""What the pages of all kinds have: which runs there are, and tables."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from zerothorder.bench.suite import Suite

Results = Mapping[str, Mapping[str, Any]]
_NAMED = 12


def done(suite: Suite, found: Results, task: str, method: str) -> list[Mapping[str, Any]]:
    """The results of a method on a task, a seed each."""
    own = [c for c in suite.cells if (c.task, c.method) == (task, method) and not c.stage]
    return [found[cell.name] for cell in own if cell.name in found]


def state(suite: Suite, found: Results) -> str:
    """How much of the suite there is, by which code and where; what is missing."""
    missing = [cell.name for cell in suite.cells if cell.name not in found]
    commits = sorted({str(result["commit"]) for result in found.values()})
    codes = {result.get("code", result["commit"]) for result in found.values()}
    text = f"{len(found)} of {len(suite.cells)} runs, measured at {', '.join(commits) or 'no commit'}"
    text += " (different code: compare with care)." if len(codes) > 1 else "."
    if not missing:
        return text + "\n"
    more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
    return f"{text} Not run: {', '.join(missing[:_NAMED])}{more}.\n"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines) + "\n"
