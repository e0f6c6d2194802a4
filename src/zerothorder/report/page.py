"""RUN/report.html: one page, nothing fetched, made from the files a run leaves."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zerothorder.errors import UsageError
from zerothorder.report import phases, text
from zerothorder.report.metrics import ZERO_SHOT, Metrics, best, lower_is_better, read_metrics
from zerothorder.report.origin import Origin, commands, read_origin
from zerothorder.report.paths import FILE, paths, read_paths
from zerothorder.report.pictures import pictures, profile

_HEADLINE = (
    "accuracy",
    "f1",
    "auc",
    "calibrated_accuracy",
)  # which metric is told first, where it was measured


@dataclass(frozen=True)
class Tile:
    """One number of the first line, with what it is and what it should be read against."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Score:
    """One metric from zero-shot to test, as written."""

    name: str
    zero_shot: str
    best: str
    best_step: str
    last: str
    test: str
    change: str


def write_report(run_folder: Path) -> Path:
    """Build `run_folder/report.html` from config.json, metrics.jsonl, ledger.zo and interplay.json; return its path.

    Whatever is missing or unreadable is said on the page and leaves its part out; a page is always written,
    whole or not at all.
    """
    run_folder = Path(run_folder)
    if not run_folder.is_dir():
        raise UsageError(f"{run_folder} is not a run folder: name the folder that `zo train --output` wrote")
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise UsageError(
            "the report needs jinja2, which is not installed: pip install 'zerothorder[report]'"
        ) from error
    config, problems = _read_config(run_folder / "config.json")
    metrics = read_metrics(run_folder / "metrics.jsonl")
    origin, lost = read_origin(run_folder / "ledger.zo")
    moved, unread = read_paths(run_folder / FILE)
    environment = Environment(
        loader=PackageLoader("zerothorder.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.j2").render(
        name=run_folder.resolve().name,
        recipe=origin.recipe or text.title(config.get("recipe"), "a run"),
        model=text.title(config.get("model"), "the packaged model" if config else "an unknown model"),
        data=text.title(config.get("data"), "the packaged data" if config else "unknown data"),
        status=_status(metrics),
        tiles=_tiles(metrics, origin),
        scores=list(_scores(metrics)),
        pictures=list(pictures(metrics)),
        paths=[] if moved is None else list(paths(moved)),
        profile=profile(metrics),
        profile_columns=phases.COLUMNS,
        profile_lines=phases.table(metrics.profile) if metrics.profile else [],
        commands=list(commands(run_folder, config, ledger=bool(origin.steps))),
        settings=[pair for pair in text.settings(config) if pair[1] != "–"],
        recipe_settings=origin.settings,
        ledger=origin.facts,
        problems=_shortened(problems + metrics.problems + lost + unread),
    )
    target = run_folder / "report.html"
    partial = run_folder / "report.html.part"
    partial.write_text(page, encoding="utf-8")
    partial.replace(target)
    return target


def _read_config(path: Path) -> tuple[Mapping[str, Any], list[str]]:
    if not path.is_file():
        return {}, [f"{path.name} is missing, so the settings are not known."]
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        return {}, [f"{path.name} cannot be read as JSON ({error}), so the settings are not known."]
    return (config, []) if isinstance(config, dict) else ({}, [f"{path.name} holds no settings."])


def _shortened(problems: list[str], most: int = 20) -> list[str]:
    more = len(problems) - most
    return problems if more <= 0 else [*problems[:most], f"And {more:,} more of the kind."]


def _status(metrics: Metrics) -> tuple[str, str]:
    """(css class, words): whether the run came to its end."""
    last = metrics.last_step
    if metrics.end is not None:
        return "good", f"finished after {last:,} steps"
    return ("open", f"no end record: stopped or running, last step {last:,}") if last else ("open", "no steps yet")


def _tiles(metrics: Metrics, origin: Origin) -> list[Tile]:
    tiles: list[Tile] = []
    by_rank = sorted(
        metrics.metric_names, key=lambda name: _HEADLINE.index(name) if name in _HEADLINE else len(_HEADLINE)
    )
    for name in by_rank:
        split = "test" if metrics.evaluated(name, "test")[1].size else "dev"
        after = metrics.evaluated(name, split)[1]
        if not after.size:
            continue
        before = metrics.evaluated(name, ZERO_SHOT)[1]
        note = f"{text.score(float(before[-1]))} before training" if before.size else ""
        tiles.append(Tile(f"{text.label(name)}, {split}", text.score(float(after[-1])), note))
        if len(tiles) == 2:
            break
    if metrics.steps:
        seconds = metrics.series("seconds")[1]
        known = seconds[np.isfinite(seconds)]
        forwards = metrics.last("forwards")
        tokens = metrics.last("tokens")
        spent = f"{text.number(tokens)} tokens" if tokens else ""
        tiles += [
            Tile(
                "steps",
                text.number(len(metrics.steps)),
                f"{metrics.skipped:,} skipped" if metrics.skipped else "",
            ),
            Tile("forwards", text.number(forwards), spent),
            Tile("time", text.duration(float(known.sum()) if known.size else None), _per_step(known)),
            Tile("peak memory", text.size(metrics.last("memory"))),
        ]
    if origin.steps:
        note = f"{origin.step_bytes} bytes a step, header {text.size(origin.header_bytes)}"
        tiles.append(Tile("ledger", text.size(origin.nbytes), note))
    return tiles


def _per_step(seconds: "np.ndarray[Any, Any]") -> str:
    return f"{text.duration(float(np.median(seconds)))} a step" if seconds.size else ""


def _scores(metrics: Metrics) -> list[Score]:
    rows: list[Score] = []
    for name in metrics.metric_names:
        zero, test = metrics.evaluated(name, ZERO_SHOT)[1], metrics.evaluated(name, "test")[1]
        steps, dev = metrics.evaluated(name, "dev")
        top, at = best(name, steps, dev) if dev.size else (None, None)
        before = float(zero[-1]) if zero.size else None
        after = float(test[-1]) if test.size else None
        rows.append(
            Score(
                name=text.label(name) + (" ↓" if lower_is_better(name) else ""),
                zero_shot=text.score(before),
                best=text.score(top),
                best_step="–" if at is None else f"{at:,}",
                last=text.score(float(dev[-1]) if dev.size else None),
                test=text.score(after),
                change="–" if before is None or after is None else text.change(before, after),
            )
        )
    zero, dev, test = (metrics.rows(split) for split in (ZERO_SHOT, "dev", "test"))
    if rows and (zero, dev, test) != (None, None, None):
        rows.append(
            Score("rows measured", text.number(zero), text.number(dev), "", text.number(dev), text.number(test), "")
        )
    return rows
