"""What a suite of scores found: paired differences first, then every task, then scores against what they cost."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zerothorder.bench.score_pictures import curves, differences, scatter
from zerothorder.bench.statistics import mean, paired
from zerothorder.bench.suite import JOINT, Suite
from zerothorder.bench.tables import Results, done, markdown, state
from zerothorder.data.baselines import equal_guesses
from zerothorder.errors import UsageError
from zerothorder.report.text import duration

Run = Mapping[str, Any]
_SEEDS = 3
"""Of every task, below which there is no interval."""
_PAIRS = 6
"""Below which an interval is the range of the differences, which excludes zero by chance once in four times or more."""
_HOW = """First what is compared: cross-entropy on test rows (nats, lower is better), then calibrated accuracy, whose
thresholds come from unlabelled training rows; plain accuracy mostly measures the model's bias between the answers. A
difference is that to `{base}` on the same task and seed, with its 95 % interval by the bootstrap over seeds within
tasks: bold where zero lies outside. Of fewer than six differences the interval is no more than their range, which zero
leaves by chance once in four times: nothing is bold there, and fewer than three seeds have none. A forward is a pass of
a batch; a slope counts 2, a gradient 3; the forwards of the search are counted apart. Seconds are the processor's, one
thread, evaluations left out. Memory is what the process held at most, less what it held before it loaded the model, the
median of the runs. A rate in brackets is the lowest or highest that was tried.
"""


def write_page(suite: Suite, found: Results, folder: Path) -> Path:
    """FOLDER/README.md and its pictures."""
    base = suite.methods[0].partition(JOINT)[0]
    parts = [f"# {suite.name}\n", suite.about.strip() + "\n", state(suite, found), _HOW.format(base=base)]
    for group in groups(suite):
        own = [method for method in suite.methods if group_of(method) == group]
        common = shared_by(suite, found, own)
        rows = [row for method in own if (row := compared(suite, common, method, base))]
        if not rows:
            continue
        title = group or "All methods"
        alike = ", ".join(f"{task} (seeds {', '.join(map(str, seeds))})" for task, seeds in runs_of(rows[0]).items())
        parts += [
            f"## {title}\n",
            f"Compared on what all of them have done: {alike}.\n",
            markdown(_HEAD, [_row(row, base) for row in rows]),
        ]
        stem = (group or "all").replace(JOINT, "-")
        pictures = {
            "differences": (
                "difference in cross-entropy, with its interval",
                differences(rows, base),
            ),
            "forwards": ("cross-entropy on dev against forwards", curves(rows)),
            "seconds": (
                "cross-entropy on test against seconds",
                scatter(rows, "seconds", "seconds, one thread"),
            ),
            "memory": ("cross-entropy on test against memory", scatter(rows, "memory", "memory, MiB")),
        }
        for name, (about, svg) in pictures.items():
            if svg:
                (folder / f"{stem}-{name}.svg").write_text(svg)
                parts.append(f"![{title}: {about}]({stem}-{name}.svg)\n")
    parts += [text for task in suite.tasks if (text := _task(suite, found, task))]
    page = folder / "README.md"
    page.write_text("\n".join(parts))
    return page


def summary(suite: Suite, found: Results) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Head and rows of what the command prints."""
    rows = [
        (task, method, str(len(own)), mean(of(own, "test", "loss")), _accuracy(own))
        for task in suite.tasks
        for method in suite.methods
        if (own := done(suite, found, task, method))
    ]
    return ("task", "method", "seeds", "cross-entropy", "calibrated accuracy"), rows


def groups(suite: Suite) -> list[str]:
    """What methods are compared within: the values of their axes."""
    return list(dict.fromkeys(map(group_of, suite.methods)))


def group_of(method: str) -> str:
    """Of "zo-adam+lora", "lora"."""
    return method.partition(JOINT)[2]


def of(runs: Sequence[Run], split: str, name: str) -> list[float]:
    """A measure of every run; one that is no number is infinite for a loss, and stays none for what shall be high."""
    worst = math.inf if name == "loss" else math.nan
    values = [run[split].get(name) for run in runs]
    return [worst if value is None or value != value else value for value in values]


def shared_by(suite: Suite, found: Results, methods: Sequence[str]) -> Results:
    """Of these methods' results those on tasks and seeds that all of them that have any have: means over different runs
    compare nothing."""
    own = [
        {(c.task, c.seed): c.name for c in suite.cells if c.method == method and not c.stage and c.name in found}
        for method in methods
    ]
    own = [places for places in own if places]
    alike = set[tuple[str, int]].intersection(*map(set, own)) if own else set[tuple[str, int]]()
    return {name: found[name] for places in own for place, name in places.items() if place in alike}


def runs_of(row: Mapping[str, Any]) -> dict[str, list[int]]:
    """The seeds of each task."""
    return {task: [run["seed"] for run in runs] for task, runs in row["runs"].items()}


def compared(suite: Suite, found: Results, method: str, base: str) -> dict[str, Any] | None:
    """A method beside the base of its group, over all tasks that have both; None where nothing is done."""
    name, group = method.partition(JOINT)[0], group_of(method)
    against = JOINT.join(filter(None, (base, group)))
    runs = {task: own for task in suite.tasks if (own := done(suite, found, task, method))}
    if not runs:
        return None
    every = [run for own in runs.values() for run in own]
    row: dict[str, Any] = {"name": name, "runs": runs, "every": every, "loss": None, "accuracy": None, "enough": False}
    for key, measure in (("loss", "loss"), ("accuracy", score_name(every))):
        pairs = [_pairs(own, done(suite, found, task, against), measure) for task, own in runs.items()]
        if all(pairs) and name != base and all(math.isfinite(x) for own in pairs for x in own):
            value, low, high = paired(pairs)
            told = min(map(len, pairs)) >= _SEEDS
            row[key] = (value, low, high) if told else (value, math.nan, math.nan)
            row["enough"] = sum(map(len, pairs)) >= _PAIRS
    row["seconds"] = statistics.fmean(run["training_seconds"] for run in every)
    row["memory"] = statistics.median(run["memory"] for run in every) / 2**20
    return row


def _pairs(ours: Sequence[Run], theirs: Sequence[Run], measure: str) -> list[float]:
    """Differences on the same seeds."""
    other = {run["seed"]: run["test"].get(measure) for run in theirs}
    return [run["test"][measure] - other[run["seed"]] for run in ours if other.get(run["seed"]) is not None]


def score_name(runs: Sequence[Run]) -> str:
    """Calibrated accuracy where every run has it."""
    return "calibrated_accuracy" if all("calibrated_accuracy" in run["test"] for run in runs) else "accuracy"


_HEAD = (
    "method", "difference in cross-entropy", "in calibrated accuracy", "forwards a step", "steps", "forwards",
    "in the search", "rate", "seconds", "memory, MiB",
)  # fmt: skip


def _row(row: Mapping[str, Any], base: str) -> tuple[str, ...]:
    every: Sequence[Run] = row["every"]
    first = every[0]
    return (
        row["name"], _difference(row, "loss", base), _difference(row, "accuracy", base),
        str(first["cost"]), str(first["steps"]), f"{statistics.fmean(run['forwards'] for run in every):,.0f}",
        f"{first['searched']:,.0f}", ", ".join(dict.fromkeys(map(_rate, every))), f"{row['seconds']:.0f}",
        f"{row['memory']:.0f}",
    )  # fmt: skip


def _difference(row: Mapping[str, Any], key: str, base: str) -> str:
    if row["name"] == base:
        return "0"
    if row[key] is None:
        return "no number" if any(not math.isfinite(x) for x in of(row["every"], "test", "loss")) else "none"
    value, low, high = row[key]
    text = f"{value:+.3f}"
    if math.isnan(low):
        return text
    bold = row["enough"] and (low > 0 or high < 0)
    return f"{f'**{text}**' if bold else text} ({low:+.3f} to {high:+.3f})"


def _rate(run: Run) -> str:
    tried = [float(rate) for rate in run["tried"]]
    edge = tried and run["rate"] in (min(tried), max(tried))
    return f"({run['rate']:g})" if edge else f"{run['rate']:g}"


def _task(suite: Suite, found: Results, task: str) -> str:
    """Every method on one task, and what needs no training."""
    runs = {method: own for method in suite.methods if (own := done(suite, found, task, method))}
    if not runs:
        return ""
    first = next(iter(runs.values()))[0]
    rows = _starts(runs)
    if (value := _guesses(first["settings"]["data"])) is not None:
        rows.append(("equal guesses, no model", "", f"{value:.3f}", "", "", ""))
    rows += [
        (f"{name}, no model", "", "", "", f"{value:.3f}", "") for name, value in first.get("baselines", {}).items()
    ]
    rows += [
        (
            method, str(len(own)), mean(of(own, "test", "loss")), _accuracy(own), mean(of(own, "test", "accuracy")),
            duration(statistics.fmean(run["seconds"] for run in own)),
        )
        for method, own in runs.items()
    ]  # fmt: skip
    head = ("method", "seeds", "cross-entropy", "calibrated accuracy", "plain accuracy", "time of a run")
    return f"## {task}\n\n{markdown(head, rows)}"


def _starts(runs: Mapping[str, Sequence[Run]]) -> list[tuple[str, ...]]:
    """Rows of what was there before training: one, and one for each scheme whose new weights begin elsewhere."""
    begun = dict[tuple[str, ...], dict[str, None]]()
    for method, own in runs.items():
        distinct = list({json.dumps(run["zero_shot"], sort_keys=True): run["zero_shot"] for run in own}.values())
        at = [{"test": start} for start in distinct]
        shown = (mean(of(at, "test", "loss")), _accuracy(at), mean(of(at, "test", "accuracy")))
        begun.setdefault(shown, {})[group_of(method) or method] = None
    most = max(begun, key=lambda shown: len(begun[shown]))
    return [
        ("before training" if shown == most else f"before training, {', '.join(names)}", "", *shown, "")
        for shown, names in sorted(begun.items(), key=lambda found: found[0] != most)
    ]


def _guesses(data: str) -> float | None:
    """None too where the data are not at hand: a page is made anywhere."""
    try:
        return equal_guesses(data)
    except (UsageError, OSError):
        return None


def _accuracy(runs: Sequence[Run]) -> str:
    return mean(of(runs, "test", "calibrated_accuracy")) if "calibrated_accuracy" in runs[0]["test"] else ""
