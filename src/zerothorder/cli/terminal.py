"""What a command says while it works: a live terminal, a plain log, JSON lines, or nothing.

Progress and notes go to stderr, results to stdout, so that a result can be piped.
"""

import json
import sys
import time
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from zerothorder.journal import finite
from zerothorder.reporter import Silent

_PATIENCE = 2.0
"""Seconds after which work that is still going on is shown."""
_LOG_EVERY = 10.0
"""Seconds between lines of a log that nobody watches live."""
_WINDOW = 20
"""Steps that the loss and the speed shown are the mean of."""


class Terminal(Silent):
    """A reporter with an end: use as a context, or call `close()`; `result` prints what was asked for."""

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def close(self) -> None:
        """Take away what is only for while the work goes on."""

    def result(self, found: Mapping[str, Any], *shown: Any) -> None:
        """The answer: `shown` (text or tables) for people, `found` for programs."""

    def show(self, *shown: Any) -> None:
        """What people get beside the answer; programs have it as a row."""


def terminal(*, quiet: bool = False, as_json: bool = False) -> Terminal:
    """The reporter for this call and this stderr."""
    if as_json:
        return JsonLines(quiet)
    if quiet:
        return Quiet()
    return Live() if Console(stderr=True).is_terminal else Log()


class Quiet(Terminal):
    """Nothing, not even results."""


class JsonLines(Terminal):
    """One JSON object a line on stdout, all of them with a `kind`; NaN becomes null."""

    def __init__(self, quiet: bool = False) -> None:
        self._results_only, self._said = quiet, 0.0

    def note(self, text: str) -> None:
        self._say({"kind": "note", "text": text})

    def row(self, row: Mapping[str, Any]) -> None:
        self._say(row)

    def progress(self, what: str, done: int, total: int) -> None:
        if what != "training" and time.monotonic() - self._said > _PATIENCE:
            self._say({"kind": "progress", "what": what, "done": done, "total": total})

    def result(self, found: Mapping[str, Any], *shown: Any) -> None:
        print(json.dumps(_finite({"kind": "result", **found})), flush=True)

    def _say(self, row: Mapping[str, Any]) -> None:
        if not self._results_only:
            self._said = time.monotonic()
            print(json.dumps(finite(row)), flush=True)


class _Shown(Terminal):
    """What a live terminal and a log have in common: results on stdout, recent loss and speed."""

    def __init__(self) -> None:
        self.out = Console(highlight=False, soft_wrap=True)
        self._recent: deque[tuple[float, float, float]] = deque(maxlen=_WINDOW)  # loss, forwards, seconds
        self._forwards = None

    def result(self, found: Mapping[str, Any], *shown: Any) -> None:
        self.show(*shown)

    def show(self, *shown: Any) -> None:
        self.close()
        for part in shown:
            if isinstance(part, str):
                self.out.print(part, markup=False)
            else:
                self.out.print(part)

    def _step(self, row: Mapping[str, Any]) -> str:
        """ "loss 0.652 · 41 forwards/s" over the last steps."""
        total = row.get("forwards")
        if total is not None and row.get("loss") is not None and not row["skipped"]:
            new = total - self._forwards if self._forwards is not None else 0
            self._recent.append((row["loss"], new, row.get("seconds") or 0.0))
        self._forwards = total
        if not self._recent:
            return "loss –"
        loss = sum(loss for loss, _, _ in self._recent) / len(self._recent)
        timed = [(new, seconds) for _, new, seconds in self._recent if new]
        seconds = sum(s for _, s in timed)
        speed = f" · {sum(new for new, _ in timed) / seconds:.3g} forwards/s" if seconds else ""
        return f"loss {loss:.4f}{speed}"


def _measured(row: Mapping[str, Any]) -> str:
    names = [n for n, v in row.items() if isinstance(v, float) and n not in ("moved", "changed")]
    return ", ".join(f"{label(name)} {row[name]:.4f}" for name in names)


class Log(_Shown):
    """Whole lines for a file or a pipe: evaluations and notes as they come, progress every ten seconds."""

    def __init__(self) -> None:
        super().__init__()
        self._said = time.monotonic()
        self._began: dict[str, tuple[float, int]] = {}  # when, and how far it was already: a run that is gone on with
        self._now = ""

    def note(self, text: str) -> None:
        self._say(text)

    def row(self, row: Mapping[str, Any]) -> None:
        if row["kind"] == "step":
            self._now = self._step(row)
        elif row["kind"] == "eval":
            self._say(f"step {row['step']}, {row['split']}: {_measured(row)}")

    def progress(self, what: str, done: int, total: int) -> None:
        began, before = self._began.setdefault(what, (time.monotonic(), done))
        if done >= total:
            del self._began[what]
        if done < total and time.monotonic() - max(self._said, began) > _LOG_EVERY:
            left = (time.monotonic() - began) * (total - done) / (done - before) if done > before else 0.0
            rest = f", {left:.0f} s left" if left else ""
            now = f": {self._now}" if what == "training" else ""
            self._say(f"{what} {done}/{total}{now}{rest}")

    def _say(self, text: str) -> None:
        self._said = time.monotonic()
        print(text, file=sys.stderr, flush=True)


class _AfterPatience(Progress):
    """Shows work only once it has taken a moment, so that a quick command stays quiet."""

    def make_tasks_table(self, tasks: Iterable[Task]) -> Table:
        return super().make_tasks_table([task for task in tasks if (task.elapsed or 0.0) > _PATIENCE])


class _Count(ProgressColumn):
    """How many of how many; nothing for work of unknown length."""

    def render(self, task: Task) -> str:
        return "" if task.total is None else f"{task.completed:.0f}/{task.total:.0f}"


class Live(_Shown):
    """Bars on a terminal: one for each piece of work that goes on, with the time left."""

    def __init__(self) -> None:
        super().__init__()
        self._bars = _AfterPatience(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            _Count(),
            TextColumn("{task.fields[now]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True, highlight=False),
            transient=True,
            refresh_per_second=4,
        )
        self._tasks: dict[str, TaskID] = {}

    def close(self) -> None:
        self._bars.stop()

    def note(self, text: str) -> None:
        self._bars.console.print(text, markup=False)

    def row(self, row: Mapping[str, Any]) -> None:
        if row["kind"] == "step" and "training" in self._tasks:
            self._bars.update(self._tasks["training"], now=self._step(row))
        elif row["kind"] == "step":
            self._step(row)
        elif row["kind"] == "eval":
            self.note(f"step {row['step']}, {row['split']}: {_measured(row)}")

    def progress(self, what: str, done: int, total: int) -> None:
        unknown = (done, total) == (0, 1)
        if what not in self._tasks:
            if done >= total:
                return
            self._bars.start()
            self._tasks[what] = self._bars.add_task(what, total=None if unknown else total, completed=done, now="")
        if done >= total:
            self._bars.remove_task(self._tasks.pop(what))
        elif not unknown:
            self._bars.update(self._tasks[what], completed=done, total=total)


def label(name: str) -> str:
    """A measure's name as people write it."""
    return {"auc": "AUC", "f1": "F1", "overlap_idf": "overlap, by idf"}.get(name, name.replace("_", " "))


def table(columns: Iterable[str], rows: Iterable[Iterable[Any]], title: str | None = None) -> Table:
    """A plain table: first column to the left, numbers to the right."""
    made = Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for number, column in enumerate(columns):
        made.add_column(column, justify="left" if number == 0 else "right", overflow="fold")
    for row in rows:
        made.add_row(*("–" if cell is None or cell != cell else str(cell) for cell in row))
    return made


def _finite(value: Any) -> Any:
    """JSON without NaN and infinities, however deep."""
    if isinstance(value, Mapping):
        return finite({k: _finite(v) for k, v in value.items()})
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and value - value != 0 else value
