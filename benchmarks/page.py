"""docs/benchmarks.md from benchmarks/results/*.json: page.md with its places filled, no number typed in by hand."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import tables
from benchmarks.common import HERE, Settings, against
from benchmarks.markdown import number, spread, table
from benchmarks.pictures import picture
from benchmarks.targets import ABOUT, Verdict, verdicts

PAGE = HERE.parent / "docs" / "benchmarks.md"
PICTURES = "benchmarks"
"""The pictures' folder, beside the page."""
TABLES = {
    "steps": (("step", "peers"), tables.steps),
    "populations": (("population",), tables.populations),
    "memory": (("memory",), tables.memory),
    "passes": (("pass",), tables.passes),
    "replays": (("replay",), tables.replays),
    "keys": (("keys",), tables.keys),
    "overheads": (("overhead",), tables.overheads),
    "ledger": (("ledger",), tables.ledger),
    "plan": (("plan",), tables.plan),
}
"""Of each table's place: the measurements it is made of, by the first word of their names."""
_PLACE = re.compile(r"\{\{(\w+)([ \w]*)\}\}")

Result = dict[str, Any]


def write_page(results: Path, folder: Path, expected: Sequence[str]) -> None:
    """Write benchmarks.md and its pictures to `folder` from the results there are, of those `expected`."""
    found = [json.loads(path.read_text()) for path in sorted(results.glob("*.json"))]
    page = Page([result for result in found if result["name"] in expected], expected)
    (folder / PAGE.name).write_text(page.text())
    pictures = folder / PICTURES
    pictures.mkdir(exist_ok=True)
    for old in pictures.glob("*.svg"):
        old.unlink()
    for name, svg in page.pictures.items():
        (pictures / f"{name}.svg").write_text(svg)


class Page:
    """The page as Markdown; `pictures` (name → SVG) is filled as `text` draws them."""

    def __init__(self, results: Sequence[Result], expected: Sequence[str] = ()) -> None:
        order = {name: at for at, name in enumerate(expected)}
        self.results = sorted(results, key=lambda result: order.get(result["name"], len(order)))
        self.expected = expected
        self.by_name = {result["name"]: result for result in results}
        self.verdicts = verdicts(self.by_name)
        self.pictures: dict[str, str] = {}

    def text(self) -> str:
        """The whole page; a place that has nothing to say goes with its line."""
        filled = _PLACE.sub(lambda place: self._fill(place[1], place[2].split()), (HERE / "page.md").read_text())
        return re.sub(r"\n{3,}", "\n\n", filled).rstrip() + "\n"

    def _fill(self, name: str, words: list[str]) -> str:
        if name in TABLES:
            kinds, make = TABLES[name]
            found = [result for result in self.results if result["name"].split("-")[0] in kinds]
            return make(found, self._draw).rstrip() if found else "Not measured yet."
        if name == "targets":
            return self._targets(words).rstrip()
        parts = {
            "conclusion": self._conclusion, "machine": self._machine, "summary": self._summary,
            "missing": self._missing,
        }  # fmt: skip
        return parts[name]().rstrip()

    def _draw(self, name: str, about: str, rows: Sequence[tuple[str, float, str, str]], level: float) -> str:
        """The picture, kept under its name, and the line of Markdown that shows it."""
        self.pictures[name] = picture(rows, level)
        return f"![{about}]({PICTURES}/{name}.svg)\n"

    def _conclusion(self) -> str:
        """What a reader who stops here should know, with the range of the medians."""
        said = [
            ("A whole training step takes {} × its two forwards along low-rank directions", "R1", "low-rank"),
            ("In bfloat16 it takes {} × its two forwards along low-rank directions", "R1b", "low-rank"),
        ]
        lines: list[str] = []
        for (words, id_, method), dtype in zip(said, ("float32", "bfloat16"), strict=True):
            found = self._medians(id_, method)
            if not found:
                continue
            line = words.format(_range(found))
            dense = [*self._medians(id_, "spsa", "16×64"), *self._medians(id_, "mezo", "16×64")]
            line += f", {_range(dense)} × along dense ones at 16×64" if dense else ""
            plain = list(self._plain(dtype))
            lines.append(line + (f"; a MeZO loop as it is usually written takes {_range(plain)} ×." if plain else "."))
        for words, id_, method in (
            ("With 16 points a step, training runs at {} of the tokens a second of inference.", "R2", ""),
            ("A replay is {} times as fast as the training was.", "R7", ""),
        ):
            if found := self._medians(id_, method):
                lines.append(words.format(_range(found)))
        if found := self._medians("R3", ""):
            lines.append(
                f"Training holds at most {number(max(found))} of the weights' bytes beyond what inference holds."
            )
        return "\n".join(f"- {line}" for line in lines)

    def _medians(self, id_: str, method: str, where: str = "") -> list[float]:
        """Of the target's measured cases whose names begin and go on like this."""
        cases = [v for v in self.verdicts if v.target.id == id_ and v.target.case.startswith(method)]
        return [v.measured.median for v in cases if v.measured and where in v.target.case]

    def _plain(self, dtype: str) -> Iterator[float]:
        for r in self.results:
            if r["dtype"] == dtype and "two_forwards" in r.get("seconds", ()) and "plain" in r["seconds"]:
                yield against(r["seconds"], "plain", "two_forwards").median

    def _machine(self) -> str:
        if not self.results:
            return "There are no results yet.\n"
        about = [r["environment"] for r in self.results]
        machines = [
            f"{a['processor']}, {a['cores']} cores, {a['instructions']}, {a['threads']} threads, torch {a['torch']}"
            for a in about
        ]
        loads = [max(r["load_average_before"][0], r["load_average_after"][0]) for r in self.results]
        text = (
            f"Machine: {'; '.join(dict.fromkeys(machines))}. Load average (one minute) at the time: {min(loads):.1f} "
            f"to {max(loads):.1f}. Measured at {', '.join(sorted({a['commit'][:7] for a in about}))}"
        )
        if changed := sum(a["changed_since_commit"] for a in about):
            text += f"; {changed} of {len(self.results)} results with changes that were not committed yet"
        text += "."
        if max(loads) > about[0]["cores"] + 0.7:
            text += (
                "\n\n!!! warning\n    Other work ran on this machine meanwhile: ratios hold more or less, absolute "
                "times do not."
            )
        return text + "\n" + self._rounds()

    def _rounds(self) -> str:
        """The results of fewer rounds than there should be."""
        wanted, fewer = Settings().repeats, dict[int, list[str]]()
        for result in self.results:
            if (rounds := result.get("rounds", wanted)) < wanted:
                fewer.setdefault(rounds, []).append(f"`{result['name']}`")
        if not fewer:
            return ""
        lines = [f"- {rounds} rounds: {', '.join(names)}" for rounds, names in sorted(fewer.items(), reverse=True)]
        return f"\nMeasured in fewer rounds than {wanted}:\n\n" + "\n".join(lines) + "\n"

    def _summary(self) -> str:
        """One row a target: its cases by what became of them."""
        rows: list[list[str]] = []
        for id_, about in ABOUT.items():
            cases = [v for v in self.verdicts if v.target.id == id_]
            goals = [v for v in cases if v.target.words != "its floor"]
            met = sum(v.reached is True for v in goals)
            measured = sum(v.measured is not None for v in goals)
            became = f"{met} of {measured}" if measured else "–"
            rows.append([id_, about, became, str(len(goals) - measured)])
        head = ("target", "what", "reached, of the cases measured", "cases not measured")
        return table(head, rows)

    def _targets(self, ids: Iterable[str]) -> str:
        """A row a case, and a sentence for each that is missed."""
        cases = [v for v in self.verdicts if v.target.id in ids]
        rows = [
            (
                v.target.id, v.target.case, spread(v.measured), v.target.words + _goal(v), _reached(v),
                "–" if v.floor is None else number(v.floor),
            )
            for v in cases
        ]  # fmt: skip
        text = table(("", "case", "measured", "target", "reached", "limit"), rows)
        missed = [v for v in cases if v.reached is False]
        if missed:
            text += "\nNot reached:\n\n" + "\n".join(f"- {_miss(v)}" for v in missed) + "\n"
        return text

    def _missing(self) -> str:
        missing = [name for name in self.expected if name not in self.by_name]
        if not missing:
            return ""
        return "## Not measured\n\nWithout a result: " + ", ".join(f"`{name}`" for name in missing) + ".\n"


def _range(values: Sequence[float]) -> str:
    low, high = (number(value) for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def _goal(verdict: Verdict) -> str:
    """The number of a goal that is one of the model's."""
    return f", {verdict.goal:.2f}" if verdict.goal is not None and callable(verdict.target.goal) else ""


def _reached(verdict: Verdict) -> str:
    if verdict.measured is None:
        return "–"
    if verdict.reached is None:
        return f"{verdict.measured.median / verdict.floor:.2f} × it" if verdict.floor else "–"
    return "yes" if verdict.reached else "**no**"


def _miss(verdict: Verdict) -> str:
    """What was aimed at and found, and what bounds it."""
    assert verdict.measured is not None
    text = (
        f"{verdict.target.id}, {verdict.target.case}: {number(verdict.measured.median)}, target {verdict.target.words}"
        f"{_goal(verdict)}"
    )
    if verdict.floor is None:
        return f"{text}; its limit was not measured."
    return f"{text}, limit {number(verdict.floor)}: {verdict.bound or 'what it is made of was not measured'}."


__all__ = ["PAGE", "Page", "write_page"]
