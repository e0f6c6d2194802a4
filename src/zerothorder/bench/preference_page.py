"""What a suite found, as a page: tables of means over seeds, curves, and what was said before and after."""

import statistics
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from zerothorder.bench.statistics import mean
from zerothorder.bench.suite import Suite
from zerothorder.bench.tables import Results, done, markdown, state
from zerothorder.report.standalone import lines
from zerothorder.report.svg import SERIES
from zerothorder.report.text import duration

_HOW = """Before and after are of prompts that training does not see; each seed samples its own completions, of the same
prompts for all methods. ± is the standard error over seeds; of one seed there is none. Tokens are all that went through
the policy, generation and the reference included, and through reward models, fitting and judging included; time is the
processor's, one thread; memory what the process held at most, less what it held before it loaded the model, of runs
that were not stopped in between. KL in the tables is of a whole completion at temperature 1, in the pictures of a token
at the temperature that training samples at.
"""
_PICTURES = {
    "tokens": ("reward", "tokens", "reward of what training says", "thousand tokens through the model"),
    "seconds": ("reward", "seconds", "reward of what training says", "seconds of training, one thread"),
    "kl": ("kl", "tokens", "KL divergence from the reference, nats a token", "thousand tokens through the model"),
    "length": ("length", "tokens", "length of what training says, tokens", "thousand tokens through the model"),
}
"""Name of the file: what is drawn, along what, and the words for both."""
_SHOWN = 3
"""Texts of a task that the page shows, of the first seed."""


def write_page(suite: Suite, found: Results, folder: Path) -> Path:
    """FOLDER/README.md and its pictures."""
    parts = [f"# {suite.name}\n", suite.about.strip() + "\n", state(suite, found), _HOW]
    for task in suite.tasks:
        own = {m: runs for m in suite.methods if (runs := done(suite, found, task, m))}
        if not own:
            continue
        parts += [f"## {task}\n", _table(own), *_metrics(own), *_rounds(own)]
        for name, (shown, along, what, unit) in _PICTURES.items():
            drawn = _curves(own, shown, along)
            if not drawn:  # DPO draws no completions
                continue
            picture = folder / f"{task}-{name}.svg"
            picture.write_text(lines(drawn, unit))
            about = f"{what}, against {unit}; mean of the seeds, over 8 updates"
            parts.append(f"{about[0].upper()}{about[1:]}:\n\n![{task}: {about}]({picture.name})\n")
        parts.append(_samples(own))
    page = folder / "README.md"
    page.write_text("\n".join(parts))
    return page


def summary(suite: Suite, found: Results) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Head and rows of what the command prints."""
    rows = [
        (task, method, str(len(own)), mean([r["after"]["reward"] - r["before"]["reward"] for r in own]))
        for task in suite.tasks
        for method in suite.methods
        if (own := done(suite, found, task, method))
    ]
    return ("task", "method", "seeds", "gain in reward"), rows


def _table(own: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    head = ("method", "seeds", "reward before", "after", "gain", "KL", "length", "tokens", "time", "memory")
    rows: list[tuple[str, ...]] = []
    for method, runs in own.items():
        gains = [r["after"]["reward"] - r["before"]["reward"] for r in runs]
        rows.append(
            (
                method, str(len(runs)), mean([r["before"]["reward"] for r in runs]),
                mean([r["after"]["reward"] for r in runs]), f"**{mean(gains)}**",
                mean([r["after"]["kl"] for r in runs], 2), mean([r["after"]["length"] for r in runs], 1),
                f"{statistics.fmean(r['tokens'] for r in runs) / 1e3:.0f} k",
                duration(statistics.fmean(r["curve"][-1]["seconds"] for r in runs)),
                _memory(runs),
            )
        )  # fmt: skip
    return markdown(head, rows)


def _memory(runs: Sequence[Mapping[str, Any]]) -> str:
    known = [r["memory"] for r in runs if r["memory"] is not None]
    return f"{statistics.fmean(known) / 2**20:.0f} MiB" if known else "–"


def _metrics(own: Mapping[str, Sequence[Mapping[str, Any]]]) -> Generator[str]:
    """What other metrics say of the same completions: who trains for one may lose by another."""
    names = {name: None for runs in own.values() for r in runs for name in r["after"].get("metrics", {})}
    rows: list[tuple[str, ...]] = []
    for method, runs in own.items():
        cells: list[str] = []
        for name in names:
            known = [(r["before"]["metrics"][name], r["after"]["metrics"][name]) for r in runs if _measured(r, name)]
            cells += [mean([x for x, _ in known]), mean([y for _, y in known])] if known else ["–", "–"]
        rows.append((method, *cells))
    if names:
        yield "Of the same completions:\n"
        yield markdown(("method", *(f"{name} {when}" for name in names for when in ("before", "after"))), rows)


def _measured(run: Mapping[str, Any], name: str) -> bool:
    return all(name in run[when].get("metrics", {}) for when in ("before", "after"))


def _rounds(own: Mapping[str, Sequence[Mapping[str, Any]]]) -> Generator[str]:
    """What each round of a method of several gave: the first may have another recipe than the others."""
    for method, runs in own.items():
        of_rounds = list(zip(*(r.get("rewards", ()) for r in runs), strict=False))
        if len(of_rounds) > 1:
            found = ", ".join(mean([look["reward"] for look in looks]) for looks in of_rounds)
            yield f"Reward after each round of `{method}`: {found}.\n"


def _curves(
    own: Mapping[str, Sequence[Mapping[str, Any]]], shown: str, along: str
) -> list[tuple[str, str, list[float], list[float]]]:
    """(method, colour, x, y) of those whose curve has `shown`."""
    drawn: list[tuple[str, str, list[float], list[float]]] = []
    for at, (method, runs) in enumerate(own.items()):
        curves = [r["curve"] for r in runs if r["curve"] and shown in r["curve"][-1]]
        if not curves:
            continue
        length = min(map(len, curves))
        x = [statistics.fmean(c[i][along] for c in curves) for i in range(length)]
        y = [statistics.fmean(c[i][shown] for c in curves) for i in range(length)]
        smooth = [statistics.fmean(y[max(0, i - 7) : i + 1]) for i in range(length)]
        scale = 1e3 if along == "tokens" else 1.0
        drawn.append((method, SERIES[at % len(SERIES)], [value / scale for value in x], smooth))
    return drawn


def _samples(own: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    first = next(iter(own.values()))[0]
    text = ["What it says, before and after (the first seed of each):\n"]
    for at, (prompt, completion) in enumerate(first["before"]["texts"][:_SHOWN]):
        text += [f"> {_one_line(prompt)}\n", f"- before: {_one_line(completion)}"]
        text += [f"- {method}: {_one_line(runs[0]['after']['texts'][at][1])}" for method, runs in own.items()]
        text.append("")
    return "\n".join(text)


def _one_line(text: str) -> str:
    return " ".join(text.split()) or "(nothing)"
